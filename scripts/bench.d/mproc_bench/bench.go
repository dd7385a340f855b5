// bench SCENARIO N: the same work as the Python subjects; prints the seconds it took.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}

func stream(n, pairs int) time.Duration {
	ch, sums := make(chan int, 1024), make(chan int, pairs)
	var producers sync.WaitGroup
	start := time.Now()
	for p := 0; p < pairs; p++ {
		producers.Add(1)
		go func(first int) {
			defer producers.Done()
			for i := first; i < n; i += pairs {
				ch <- i
			}
		}(p)
		go func() {
			sum := 0
			for v := range ch {
				sum += v
			}
			sums <- sum
		}()
	}
	producers.Wait()
	close(ch)
	sum := 0
	for p := 0; p < pairs; p++ {
		sum += <-sums
	}
	took := time.Since(start)
	if sum != n*(n-1)/2 {
		fail("messages were lost or doubled")
	}
	return took
}

func pingpong(n int, locked bool) time.Duration {
	there, back := make(chan int), make(chan int)
	go func() {
		if locked {
			runtime.LockOSThread()
		}
		for v := range there {
			back <- v + 1
		}
	}()
	if locked {
		runtime.LockOSThread()
	}
	start := time.Now()
	for i := 0; i < n; i++ {
		there <- i
		if <-back != i+1 {
			fail("an answer is not that of its question")
		}
	}
	took := time.Since(start)
	close(there)
	return took
}

func spawn(n int) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for i := 0; i < n; i++ {
		wg.Add(1)
		go wg.Done()
	}
	wg.Wait()
	return time.Since(start)
}

func cpu(n int) time.Duration {
	results := make(chan uint32, 64)
	start := time.Now()
	for i := 0; i < n; i++ {
		go func(i int) {
			x := i * 7919 % 1000
			size := uint32(float64(x*x) * 0.021)
			value := size
			for k := uint32(0); k < size; k++ {
				value = value*31 + k
			}
			results <- value
		}(i)
	}
	for i := 0; i < n; i++ {
		<-results
	}
	return time.Since(start)
}

func main() {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fail(err.Error())
	}
	var took time.Duration
	switch os.Args[1] {
	case "spsc":
		took = stream(n, 1)
	case "mpmc":
		took = stream(n, 2)
	case "pingpong_remote":
		took = pingpong(n, true)
	case "pingpong_local":
		runtime.GOMAXPROCS(1)
		took = pingpong(n, false)
	case "spawn":
		took = spawn(n)
	case "cpu":
		took = cpu(n)
	default:
		fail("no scenario " + os.Args[1])
	}
	fmt.Println(took.Seconds())
}
