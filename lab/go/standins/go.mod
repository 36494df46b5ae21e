module crishim.invalid/lab/standins

go 1.25
