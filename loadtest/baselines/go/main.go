// The tutorial's event stream server on net/http, turned into a fan-out: GET subscribes, POST publishes its body.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"
)

// Frames that a slow subscriber may be behind.
const queue = 64

var heartbeat = []byte(":\n\n")

// A hub holds a channel of shared frames for each subscriber; a channel that is full is closed.
type hub struct {
	mutex   sync.Mutex
	streams map[chan []byte]struct{}
}

func (h *hub) join() chan []byte {
	frames := make(chan []byte, queue)
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.streams[frames] = struct{}{}
	return frames
}

func (h *hub) leave(frames chan []byte) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.streams, frames)
}

func (h *hub) publish(frame []byte) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for frames := range h.streams {
		select {
		case frames <- frame:
		default:
			delete(h.streams, frames)
			close(frames)
		}
	}
}

func encode(body []byte) []byte {
	var frame bytes.Buffer
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		frame.WriteString("data: ")
		frame.Write(line)
		frame.WriteByte('\n')
	}
	frame.WriteByte('\n')
	return frame.Bytes()
}

func (h *hub) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	if request.Method == http.MethodPost {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
			return
		}
		h.publish(encode(body))
		return
	}
	flusher, ok := writer.(http.Flusher)
	if !ok {
		http.Error(writer, "this connection cannot stream", http.StatusInternalServerError)
		return
	}
	frames := h.join()
	defer h.leave(frames)
	writer.Header().Set("Content-Type", "text/event-stream")
	writer.Header().Set("Cache-Control", "no-store")
	if _, err := writer.Write(heartbeat); err != nil {
		return
	}
	flusher.Flush()
	ticker := time.NewTicker(15 * time.Second)
	defer ticker.Stop()
	for {
		next := heartbeat
		select {
		case <-request.Context().Done():
			return
		case <-ticker.C:
		case frame, open := <-frames:
			if !open {
				return
			}
			next = frame
		}
		if _, err := writer.Write(next); err != nil {
			return
		}
		// What has queued up goes out together.
		for waiting := len(frames); waiting > 0; waiting-- {
			frame, open := <-frames
			if !open {
				return
			}
			if _, err := writer.Write(frame); err != nil {
				return
			}
		}
		flusher.Flush()
	}
}

func main() {
	if os.Args[1] == "--version" {
		fmt.Println("net/http of", runtime.Version())
		return
	}
	server := &http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: &hub{streams: map[chan []byte]struct{}{}}}
	log.Fatal(server.ListenAndServe())
}
