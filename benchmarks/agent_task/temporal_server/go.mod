module temporal-server

go 1.26.5

require go.temporal.io/server v1.31.0
