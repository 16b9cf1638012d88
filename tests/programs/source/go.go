package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		talk()
		return
	}
	var group sync.WaitGroup
	squares := make(chan int, 8)
	for n := 0; n < 8; n++ {
		group.Add(1)
		go func(n int) {
			defer group.Done()
			time.Sleep(time.Millisecond)
			squares <- n * n
		}(n)
	}
	group.Wait()
	close(squares)
	sum := 0
	for each := range squares {
		sum += each
	}
	if err := os.WriteFile("out.txt", []byte("written"), 0o644); err != nil {
		panic(err)
	}
	text, _ := os.ReadFile("out.txt")
	fmt.Println(sum, string(text))
}

func talk() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		one, _ := listener.Accept()
		heard, _ := exec.Command("echo", "-n", "over lo").Output()
		one.Write(heard)
		one.Close()
	}()
	one, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	buffer := make([]byte, 99)
	count, _ := one.Read(buffer)
	fmt.Println(string(buffer[:count]))
}
