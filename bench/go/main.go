// The same work in Go, for `npm run bench`: each program does its work once to warm up and once to be measured, and
// prints its sample as one line of JSON.
//
//	channel TASKS WORKERS CAPACITY   a bounded channel, worker goroutines with recover, a channel per task for its result
//	pond TASKS WORKERS CAPACITY      github.com/alitto/pond/v2, a task with a result each
//	sleeps TASKS AT_ONCE MS          goroutines behind a semaphore; cold, since its peak memory is measured
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fail("expects a program and three numbers")
	}
	switch os.Args[1] {
	case "channel":
		report(rate(channel, number(2), number(3), number(4)))
	case "pond":
		report(rate(withPond, number(2), number(3), number(4)))
	case "sleeps":
		report(sleeps(number(2), number(3), time.Duration(number(4))*time.Millisecond))
	default:
		fail("no program " + os.Args[1])
	}
}

// rate runs a work that submits all tasks, awaits all results and returns their sum.
func rate(work func(tasks, workers, capacity int) int, tasks, workers, capacity int) map[string]float64 {
	var elapsed time.Duration
	for range 2 {
		start := time.Now()
		sum := work(tasks, workers, capacity)
		elapsed = time.Since(start)
		if sum != tasks*(tasks-1)/2 {
			fail(fmt.Sprintf("the results sum up to %d", sum))
		}
	}
	return map[string]float64{"tasks/s": float64(tasks) / elapsed.Seconds()}
}

func number(index int) int {
	n, err := strconv.Atoi(os.Args[index])
	if err != nil || n < 1 {
		fail("not a number from 1: " + os.Args[index])
	}
	return n
}

func report(sample map[string]float64) {
	if err := json.NewEncoder(os.Stdout).Encode(sample); err != nil {
		fail(err.Error())
	}
}

func fail(problem string) {
	fmt.Fprintln(os.Stderr, problem)
	os.Exit(1)
}
