package main

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func sleeps(tasks, atOnce int, span time.Duration) map[string]float64 {
	start := time.Now()
	slots := make(chan struct{}, atOnce)
	var slept atomic.Int64
	var group sync.WaitGroup
	for range tasks {
		slots <- struct{}{}
		group.Add(1)
		go func() {
			defer group.Done()
			time.Sleep(span)
			slept.Add(1)
			<-slots
		}()
	}
	group.Wait()
	elapsed := time.Since(start)
	if slept.Load() != int64(tasks) {
		fail(fmt.Sprintf("%d sleeps", slept.Load()))
	}
	return map[string]float64{"ms": elapsed.Seconds() * 1000, "MB peak rss": peakMegabytes()}
}

func peakMegabytes() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		fail(err.Error())
	}
	// Linux counts in kilobytes, macOS in bytes.
	if runtime.GOOS == "darwin" {
		return float64(usage.Maxrss) / (1024 * 1024)
	}
	return float64(usage.Maxrss) / 1024
}
