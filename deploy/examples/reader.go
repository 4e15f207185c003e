// Follows the embeddings topic from Go: go run reader.go 127.0.0.1:9092 embeddings GROUP
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

var newest = map[string]int64{} // bound it, or compare with the seq in your database

// The vectors of a user: put them into your database under the user, unless a higher seq is there.
func put(user string, seq int64, vectors []float32) error {
	_, err := fmt.Printf("put\t%s\t%d\t%d\n", user, seq, len(vectors))
	return err
}

// The user was erased: delete what you hold.
func erase(user string) error {
	_, err := fmt.Printf("delete\t%s\n", user)
	return err
}

func handle(record *kgo.Record) error {
	user := string(record.Key)
	if user == "" {
		return nil
	}
	if record.Value == nil { // nil means erased
		delete(newest, user)
		return erase(user)
	}
	headers := map[string]string{}
	for _, each := range record.Headers {
		headers[each.Key] = string(each.Value)
	}
	if headers["lurm-format"] != "1" { // not ours, or of another version
		return nil
	}
	seq, err := strconv.ParseInt(headers["seq"], 10, 64)
	if err != nil {
		return err
	}
	if known, ok := newest[user]; ok && seq < known { // read again after a newer one
		return nil
	}
	width := 4
	if headers["dtype"] == "float16" {
		width = 2
	}
	vectors := make([]float32, 0, len(record.Value)/width) // row-major; headers["shape"] is "vectors,width"
	for i := 0; i+width <= len(record.Value); i += width {
		if width == 2 {
			vectors = append(vectors, fromHalf(binary.LittleEndian.Uint16(record.Value[i:])))
		} else {
			vectors = append(vectors, math.Float32frombits(binary.LittleEndian.Uint32(record.Value[i:])))
		}
	}
	if err := put(user, seq, vectors); err != nil {
		return err
	}
	newest[user] = seq
	return nil
}

func fromHalf(bits uint16) float32 {
	exponent, fraction := int(bits>>10&31), float64(bits&1023)
	size := math.Ldexp(1024+fraction, exponent-25)
	if exponent == 0 {
		size = math.Ldexp(fraction, -24)
	}
	if bits&0x8000 != 0 {
		size = -size
	}
	return float32(size)
}

func main() {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Args[1], ",")...),
		kgo.ConsumeTopics(os.Args[2]),
		kgo.ConsumerGroup(os.Args[3]),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // the topic holds everybody, not only who changes from now on
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		log.Fatal(err)
	}
	for {
		fetches := client.PollFetches(context.Background())
		if err := fetches.Err(); err != nil {
			log.Fatal(err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if err := handle(record); err != nil {
				log.Fatal(err) // it is read again after a restart
			}
		})
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil { // only what was handled
			log.Print(err)
		}
		client.AllowRebalance()
	}
}
