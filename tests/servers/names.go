// Which name each request or hello was for, as Go's servers read it: "name=NAME\n" per request.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return listener
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	fmt.Fprintf(w, "name=%s\n", r.Host)
}

func tellHello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	fmt.Fprintf(hello.Conn, "name=%s\n", hello.ServerName)
	return nil, errors.New("told")
}

func serveTLS(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			tls.Server(conn, &tls.Config{GetConfigForClient: tellHello}).Handshake()
			conn.Close()
		}()
	}
}

func main() {
	plain, encrypted := listen(), listen()
	fmt.Println(plain.Addr().(*net.TCPAddr).Port, encrypted.Addr().(*net.TCPAddr).Port)
	go serveTLS(encrypted)
	http.Serve(plain, http.HandlerFunc(answer))
}
