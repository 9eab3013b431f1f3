module example.com/meshagent

go 1.21
