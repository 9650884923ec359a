package main

import "github.com/alitto/pond/v2"

func withPond(tasks, workers, capacity int) int {
	pool := pond.NewResultPool[int](workers, pond.WithQueueSize(capacity))
	handles := make([]pond.ResultTask[int], tasks)
	for i := range tasks {
		handles[i] = pool.Submit(func() int { return i })
	}
	sum := 0
	for _, handle := range handles {
		value, err := handle.Wait()
		if err != nil {
			fail(err.Error())
		}
		sum += value
	}
	pool.StopAndWait()
	return sum
}
