module millrace/bench

go 1.22

require github.com/alitto/pond/v2 v2.7.1
