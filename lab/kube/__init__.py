"""Kubernetes on the nodes: control plane, kubelets' files, joining."""
