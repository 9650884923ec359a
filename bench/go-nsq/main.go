// The same work with nsqio/go-nsq, for `npm run bench -- nsq`. Prints its sample as one line of JSON.
//
//	publish HOST TOPIC COUNT UNCONFIRMED BATCH    PUB one at a time where BATCH is 1, else MPUB
//	consume HOST TOPIC COUNT IN_FLIGHT            what Millrace has published, each decoded and finished
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nsqio/go-nsq"
)

type Line struct {
	Product string `json:"product"`
	Count   int    `json:"count"`
}

type Order struct {
	OrderID  string  `json:"orderId"`
	Customer string  `json:"customer"`
	Total    float64 `json:"total"`
	Lines    []Line  `json:"lines"`
}

func orderOf(n int) []byte {
	body, err := json.Marshal(Order{
		OrderID:  fmt.Sprintf("order-%d", n),
		Customer: fmt.Sprintf("customer-%d", n%1000),
		Total:    float64(n) / 100,
		Lines:    []Line{{"a product of some name", n % 7}, {"another product", 1}},
	})
	check(err)
	return body
}

func main() {
	host, topic, count := os.Args[2], os.Args[3], number(4)
	switch os.Args[1] {
	case "publish":
		report(count, publish(host, topic, count, number(5), number(6)))
	case "consume":
		report(count, consume(host, topic, count, number(5)))
	default:
		log.Fatal("no program ", os.Args[1])
	}
}

func publish(host, topic string, count, unconfirmed, batch int) time.Duration {
	producer, err := nsq.NewProducer(host, nsq.NewConfig())
	check(err)
	producer.SetLoggerLevel(nsq.LogLevelError)
	check(producer.Ping())
	done := make(chan *nsq.ProducerTransaction, unconfirmed)
	start := time.Now()
	sent, open := 0, 0
	for sent < count || open > 0 {
		if sent < count && open < unconfirmed {
			if batch == 1 {
				check(producer.PublishAsync(topic, orderOf(sent), done))
			} else {
				bodies := make([][]byte, batch)
				for i := range bodies {
					bodies[i] = orderOf(sent + i)
				}
				check(producer.MultiPublishAsync(topic, bodies, done))
			}
			sent += batch
			open++
			continue
		}
		check((<-done).Error)
		open--
	}
	elapsed := time.Since(start)
	producer.Stop()
	return elapsed
}

func consume(host, topic string, count, inFlight int) time.Duration {
	config := nsq.NewConfig()
	config.MaxInFlight = inFlight
	config.OutputBufferTimeout = 25 * time.Millisecond
	consumer, err := nsq.NewConsumer(topic, "bench", config)
	check(err)
	consumer.SetLoggerLevel(nsq.LogLevelError)
	var sum, handled atomic.Int64
	done := make(chan struct{})
	consumer.AddConcurrentHandlers(nsq.HandlerFunc(func(message *nsq.Message) error {
		body := message.Body
		var order Order
		check(json.Unmarshal(body[8+binary.BigEndian.Uint32(body[4:]):], &order))
		sum.Add(int64(math.Round(order.Total * 100)))
		if handled.Add(1) == int64(count) {
			close(done)
		}
		return nil
	}), 2)
	start := time.Now()
	check(consumer.ConnectToNSQD(host))
	<-done
	elapsed := time.Since(start)
	consumer.Stop()
	<-consumer.StopChan
	if expected := int64(count) * int64(count-1) / 2; sum.Load() != expected {
		log.Fatalf("the messages sum up to %d instead of %d", sum.Load(), expected)
	}
	return elapsed
}

func number(index int) int {
	n, err := strconv.Atoi(os.Args[index])
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func report(count int, elapsed time.Duration) {
	check(json.NewEncoder(os.Stdout).Encode(map[string]float64{"messages/s": float64(count) / elapsed.Seconds()}))
}
