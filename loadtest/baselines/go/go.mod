module fanfare-load-go

go 1.24
