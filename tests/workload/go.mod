module crishim.test/workload

go 1.24
