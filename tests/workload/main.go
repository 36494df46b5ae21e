// Command workload is the program that the lab's tests freeze and revive.
//
// It answers lines on a TCP port. Its state is what a user would miss: a counter, memory filled with
// a known pattern, open files. Every millisecond it looks at the wall clock, so it knows itself how
// long it stood still (CLOCK_REALTIME: the monotonic clock stands still with the process).
//
//	count N       -> "count N COUNTER", the counter went up by one
//	gap           -> "gap LONGEST_US BEGAN_US ENDED_US" (wall clock), the longest standstill so far
//	reset         -> "reset", forgets the longest standstill
//	sum           -> "sum FNV1A-OF-MEMORY"
//	write P TEXT  -> "ok"; appends a line to file P and keeps the file open
//	read P        -> "read TEXT" (first line)
//	remove P      -> "ok"
//	dial HOST:P   -> "local ADDR"; opens a connection out and keeps it
//	say TEXT      -> "heard LINE" from that connection
//	exit N        -> ends with status N
//	unix TEXT     -> "unix TEXT TEXT", sent through two UNIX connections of its own
//	chatted       -> "chatted N ERROR", what the connection of -chat has come to
//	hushed        -> "hushed N", how many lines a connection on which "hush" was said has brought
//	GET ...       -> an HTTP response without a body, for probes
//
// Three words give the whole connection another use (see connections.go): "stream" sends blocks both
// ways, "trickle" sends lines to who has ended its direction, "hush" ends ours and counts lines.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const layerFiles = 8

type state struct {
	counter atomic.Int64
	memory  []byte
	mu      sync.Mutex
	gap     [3]int64
	files   map[string]*os.File
	out     net.Conn
	outRead *bufio.Reader

	hushed, chatted atomic.Int64
	chatError       atomic.Value
	unixEnds        [][2]net.Conn
	unixListeners   []net.Listener
}

func main() {
	port := flag.Int("port", 9000, "TCP port to answer on")
	megabytes := flag.Int("memory-mb", 0, "memory to fill with a pattern")
	dirty := flag.Int("dirty-mb-s", 0, "memory to rewrite each second, with the same pattern")
	layer := flag.Int("layer-mb", 0, "size of the files to make in /layer, in 8 pieces")
	layerRate := flag.Int("layer-mb-s", 0, "how much of one of those files to rewrite each second")
	logEvery := flag.Duration("log-every", 100*time.Millisecond, "time between lines of log")
	slowPort := flag.Int("slow-port", 0, "a second TCP port, whose connections are accepted slowly")
	acceptEvery := flag.Duration("accept-every", 20*time.Millisecond, "time between those")
	chat := flag.String("chat", "", "HOST:PORT of a workload to talk to all the time")
	flag.Parse()
	s := &state{memory: fill(*megabytes << 20), files: map[string]*os.File{}}
	if *layer > 0 {
		file, err := fillLayer(*layer << 20)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go rewriteLayer(file, *layer<<20/layerFiles, *layerRate<<20)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", *port))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go s.watch()
	go s.rewrite(*dirty << 20)
	go logLines(*logEvery)
	if *slowPort != 0 {
		go s.acceptSlowly(*slowPort, *acceptEvery)
	}
	if *chat != "" {
		go s.chat(*chat)
	}
	go func() {
		<-stop
		os.Exit(0)
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go s.serve(connection.(*net.TCPConn))
	}
}

func fill(size int) []byte {
	memory := make([]byte, size)
	x := uint32(2463534242)
	for i := 0; i+4 <= size; i += 4 {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		memory[i], memory[i+1], memory[i+2], memory[i+3] = byte(x), byte(x>>8), byte(x>>16), byte(x>>24)
	}
	return memory
}

func (s *state) watch() {
	before := time.Now().UnixMicro()
	for {
		time.Sleep(time.Millisecond)
		now := time.Now().Round(0).UnixMicro()
		s.mu.Lock()
		if now-before > s.gap[0] {
			s.gap = [3]int64{now - before, before, now}
		}
		s.mu.Unlock()
		before = now
	}
}

func (s *state) rewrite(bytesPerSecond int) {
	at := 0
	for bytesPerSecond > 0 && len(s.memory) > 0 {
		for i := 0; i < bytesPerSecond/100; i += 4096 {
			at = (at + 4096) % len(s.memory)
			s.memory[at] = s.memory[at] ^ 0
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// fillLayer makes files with a pattern in the writable layer and returns one of them, open.
func fillLayer(size int) (*os.File, error) {
	if err := os.MkdirAll("/layer", 0o755); err != nil {
		return nil, err
	}
	piece := fill(1 << 20)
	var file *os.File
	for i := 0; i < layerFiles; i++ {
		var err error
		if file, err = os.Create(fmt.Sprintf("/layer/%d", i)); err != nil {
			return nil, err
		}
		for written := 0; written < size/layerFiles; written += len(piece) {
			if _, err = file.Write(piece); err != nil {
				return nil, err
			}
		}
	}
	return file, nil
}

// rewriteLayer writes single pages all over a file, as a database does.
func rewriteLayer(file *os.File, size, bytesPerSecond int) {
	page := make([]byte, 4096)
	for i := 0; bytesPerSecond > 0; i++ {
		page[i%len(page)]++
		if _, err := file.WriteAt(page, int64(i)*7919*4096%int64(size)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		time.Sleep(time.Second * time.Duration(len(page)) / time.Duration(bytesPerSecond))
	}
}

func logLines(every time.Duration) {
	for i := 0; ; i++ {
		fmt.Printf("line %d\n", i)
		time.Sleep(every)
	}
}

func (s *state) serve(connection *net.TCPConn) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "GET ") {
			fmt.Fprint(connection, "HTTP/1.0 200 OK\r\n\r\n")
			return
		}
		switch lines.Text() {
		case "stream":
			fmt.Fprintln(connection, "stream")
			stream(connection)
			return
		case "trickle":
			trickle(connection)
			return
		case "hush":
			s.hush(connection, lines)
			return
		}
		answer := s.answer(strings.SplitN(lines.Text(), " ", 3))
		if _, err := fmt.Fprintln(connection, answer); err != nil {
			return
		}
	}
}

func (s *state) answer(words []string) string {
	for len(words) < 3 {
		words = append(words, "")
	}
	switch words[0] {
	case "count":
		return fmt.Sprintf("count %s %d", words[1], s.counter.Add(1))
	case "gap":
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Sprintf("gap %d %d %d", s.gap[0], s.gap[1], s.gap[2])
	case "reset":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gap = [3]int64{}
		return "reset"
	case "sum":
		hash := fnv.New64a()
		hash.Write(s.memory)
		return fmt.Sprintf("sum %016x", hash.Sum64())
	case "exit":
		status, _ := strconv.Atoi(words[1])
		os.Exit(status)
	case "unix":
		heard, err := s.unix(words[1])
		if err != nil {
			return "error " + err.Error()
		}
		return "unix " + heard
	case "hushed":
		return fmt.Sprintf("hushed %d", s.hushed.Load())
	case "chatted":
		failure, _ := s.chatError.Load().(string)
		return strings.TrimSpace(fmt.Sprintf("chatted %d %s", s.chatted.Load(), failure))
	case "dial", "say":
		return s.outside(words)
	}
	return s.file(words)
}

func (s *state) outside(words []string) string {
	if words[0] == "dial" {
		connection, err := net.DialTimeout("tcp", words[1], 5*time.Second)
		if err != nil {
			return "error " + err.Error()
		}
		s.out, s.outRead = connection, bufio.NewReader(connection)
		return "local " + connection.LocalAddr().String()
	}
	if _, err := fmt.Fprintln(s.out, strings.Join(words[1:], " ")); err != nil {
		return "error " + err.Error()
	}
	line, err := s.outRead.ReadString('\n')
	if err != nil {
		return "error " + err.Error()
	}
	return "heard " + strings.TrimSpace(line)
}

func (s *state) file(words []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	switch words[0] {
	case "write":
		file := s.files[words[1]]
		if file == nil {
			file, err = os.OpenFile(words[1], os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
			if err != nil {
				return "error " + err.Error()
			}
			s.files[words[1]] = file
		}
		_, err = fmt.Fprintln(file, words[2])
	case "read":
		content, failure := os.ReadFile(words[1])
		if failure == nil {
			return "read " + strings.SplitN(string(content), "\n", 2)[0]
		}
		err = failure
	case "remove":
		err = os.Remove(words[1])
	default:
		return "error unknown word " + words[0]
	}
	if err != nil {
		return "error " + err.Error()
	}
	return "ok"
}
