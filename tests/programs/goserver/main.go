// Command goserver is a plain net/http server, whose listener speaks MPTCP where the kernel lets it.
// It counts requests, in memory.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	var count atomic.Int64
	http.HandleFunc("/count", func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return // the client has gone in the middle of its request
		}
		fmt.Fprintf(answer, "count %s %d", body, count.Add(1))
	})
	log.Fatal(http.ListenAndServe(":"+os.Args[1], nil))
}
