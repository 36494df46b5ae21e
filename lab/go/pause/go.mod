module crishim.invalid/lab/pause

go 1.25
