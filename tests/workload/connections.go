package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	blockBytes = 64 << 10
	lastBlock  = ^uint64(0)
	unixPath   = "/tmp/workload.sock"
)

// stream sends numbered blocks as fast as they are taken and checks the other side's, read slowly,
// so that data waits in both directions all the time. A block is its number and a known pattern.
// When the other side has ended, the last block says how many of its blocks came.
func stream(connection *net.TCPConn) {
	var received, wrong atomic.Uint64
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		block, pattern := make([]byte, blockBytes), fill(blockBytes - 8)
		for {
			if _, err := io.ReadFull(connection, block); err != nil {
				return
			}
			if binary.BigEndian.Uint64(block) != received.Load() || !bytes.Equal(block[8:], pattern) {
				wrong.Add(1)
			}
			received.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	ended := make(chan struct{})
	go func() { done.Wait(); close(ended) }()
	block := append(make([]byte, 8), fill(blockBytes-8)...)
	for number := uint64(0); ; number++ {
		binary.BigEndian.PutUint64(block, number)
		select {
		case <-ended:
			binary.BigEndian.PutUint64(block, lastBlock)
			binary.BigEndian.PutUint64(block[8:], received.Load())
			binary.BigEndian.PutUint64(block[16:], wrong.Load())
			connection.Write(block)
			return
		default:
		}
		if _, err := connection.Write(block); err != nil {
			return
		}
	}
}

// trickle sends numbered lines to somebody who has ended its own direction.
func trickle(connection *net.TCPConn) {
	for i := 1; ; i++ {
		if _, err := fmt.Fprintf(connection, "tick %d\n", i); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// hush ends our direction and goes on counting what comes.
func (s *state) hush(connection *net.TCPConn, lines *bufio.Scanner) {
	connection.CloseWrite()
	for lines.Scan() {
		var number int64
		fmt.Sscanf(lines.Text(), "tick %d", &number)
		if number != s.hushed.Add(1) {
			s.hushed.Store(-1 << 40)
		}
	}
}

// acceptSlowly serves a port whose connections wait to be accepted.
func (s *state) acceptSlowly(port int, every time.Duration) {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		time.Sleep(every)
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go s.serve(connection.(*net.TCPConn))
	}
}

// chat keeps a connection to another workload, asking it to count all the time.
func (s *state) chat(address string) {
	connection, err := net.Dial("tcp", address)
	for begun := time.Now(); err != nil && time.Since(begun) < 10*time.Second; {
		time.Sleep(50 * time.Millisecond)
		connection, err = net.Dial("tcp", address)
	}
	if err != nil {
		s.chatError.Store(err.Error())
		return
	}
	lines := bufio.NewReader(connection)
	for i := int64(1); ; i++ {
		fmt.Fprintf(connection, "count %d\n", i)
		line, err := lines.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, fmt.Sprintf("count %d ", i)) {
			s.chatError.Store(fmt.Sprintf("%q %v", line, err))
			return
		}
		s.chatted.Store(i)
		time.Sleep(2 * time.Millisecond)
	}
}

// unix sends a text through two kinds of UNIX sockets, both ends of which are ours and stay open.
func (s *state) unix(text string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unixEnds == nil {
		for kind, path := range map[string]string{"unix": unixPath, "unixpacket": "@workload"} {
			listener, err := net.Listen(kind, path)
			if err != nil {
				return "", err
			}
			near, err := net.Dial(kind, path)
			if err != nil {
				return "", err
			}
			far, err := listener.Accept()
			if err != nil {
				return "", err
			}
			s.unixEnds = append(s.unixEnds, [2]net.Conn{near, far})
			s.unixListeners = append(s.unixListeners, listener)
		}
	}
	heard := []string{}
	for _, ends := range s.unixEnds {
		buffer := make([]byte, 1024)
		if _, err := ends[0].Write([]byte(text)); err != nil {
			return "", err
		}
		size, err := ends[1].Read(buffer)
		if err != nil {
			return "", err
		}
		heard = append(heard, string(buffer[:size]))
	}
	return strings.Join(heard, " "), nil
}
