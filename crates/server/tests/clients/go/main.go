// Command trial CLIENT URL runs the clients in Go.
package main

import (
	"encoding/json"
	"os"

	launchdarkly "github.com/launchdarkly/eventsource"
	r3labs "github.com/r3labs/sse/v2"
)

func told(kind, data, id string) {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"type": kind, "data": data, "id": id})
}

func main() {
	name, url := os.Args[1], os.Args[2]
	switch name {
	case "r3labs":
		_ = r3labs.NewClient(url).SubscribeRaw(func(event *r3labs.Event) {
			told(string(event.Event), string(event.Data), string(event.ID))
		})
	case "launchdarkly":
		stream, err := launchdarkly.SubscribeWithURL(url)
		if err != nil {
			panic(err)
		}
		for {
			select {
			case event := <-stream.Events:
				told(event.Event(), event.Data(), event.Id())
			case <-stream.Errors:
			}
		}
	}
}
