module crishim.test/goserver

go 1.24
