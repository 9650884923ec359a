package main

import "fmt"

type result struct {
	value int
	err   error
}

type task struct {
	work func() int
	done chan result
}

// attempt runs the work; a panic becomes an error, so that it costs the task and not the worker.
func attempt(work func() int) (r result) {
	defer func() {
		if panicked := recover(); panicked != nil {
			r.err = fmt.Errorf("panicked: %v", panicked)
		}
	}()
	r.value = work()
	return r
}

func channel(tasks, workers, capacity int) int {
	queue := make(chan task, capacity)
	for range workers {
		go func() {
			for t := range queue {
				t.done <- attempt(t.work)
			}
		}()
	}
	handles := make([]chan result, tasks)
	for i := range tasks {
		handles[i] = make(chan result, 1)
		queue <- task{work: func() int { return i }, done: handles[i]}
	}
	close(queue)
	sum := 0
	for _, done := range handles {
		r := <-done
		if r.err != nil {
			fail(r.err.Error())
		}
		sum += r.value
	}
	return sum
}
