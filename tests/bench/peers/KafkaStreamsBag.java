import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The peer: day bags per user in Kafka Streams, exactly_once_v2, one thread, RocksDB with changelog and record cache.
 * usage: java -Xmx2g -cp "$KAFKA_HOME/libs/*" KafkaStreamsBag.java BOOTSTRAP TOPIC EVENTS APPLICATION
 */
public class KafkaStreamsBag {
  private static final JsonFactory JSON = new JsonFactory();
  private static final AtomicLong SEEN = new AtomicLong();
  private static volatile long startNanos;

  /** Adds each event to its user's bag of its day. */
  static class Update implements Processor<byte[], byte[], Void, Void> {
    private KeyValueStore<byte[], byte[]> bags;
    private long pending;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      bags = context.getStateStore("bags");
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      if (startNanos == 0) {
        startNanos = System.nanoTime();
      }
      String user = null;
      String item = null;
      long ts = 0;
      try (JsonParser parser = JSON.createParser(record.value())) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String field = parser.currentName();
          parser.nextToken();
          switch (field) {
            case "user_id" -> user = parser.getText();
            case "item_id" -> item = parser.getText();
            case "ts" -> ts = parser.getLongValue();
            default -> { }
          }
        }
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
      int interest = (int) (Long.parseLong(item.substring(1)) * 2654435761L % 100000);
      byte[] key = (user + ":" + ts / 86_400_000L).getBytes(StandardCharsets.UTF_8);
      bags.put(key, add(bags.get(key), interest));
      if ((++pending & 255) == 0) {
        SEEN.addAndGet(256);
      }
    }

    /** A bag is (interest, count) pairs of ints, interests ascending. */
    static byte[] add(byte[] old, int interest) {
      if (old == null) {
        return ByteBuffer.allocate(8).putInt(interest).putInt(1).array();
      }
      ByteBuffer bag = ByteBuffer.wrap(old);
      int n = old.length / 8;
      int low = 0;
      int high = n;
      while (low < high) {
        int middle = (low + high) >>> 1;
        if (bag.getInt(middle * 8) < interest) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      if (low < n && bag.getInt(low * 8) == interest) {
        byte[] same = old.clone();
        ByteBuffer.wrap(same).putInt(low * 8 + 4, bag.getInt(low * 8 + 4) + 1);
        return same;
      }
      byte[] longer = new byte[old.length + 8];
      System.arraycopy(old, 0, longer, 0, low * 8);
      ByteBuffer.wrap(longer).putInt(low * 8, interest).putInt(low * 8 + 4, 1);
      System.arraycopy(old, low * 8, longer, low * 8 + 8, old.length - low * 8);
      return longer;
    }
  }

  public static void main(String[] arguments) throws Exception {
    long n = Long.parseLong(arguments[2]);
    Properties config = new Properties();
    config.put("application.id", arguments[3]);
    config.put("bootstrap.servers", arguments[0]);
    config.put("state.dir", Files.createTempDirectory("kafka-streams").toString());
    config.put("num.stream.threads", "1");
    config.put("processing.guarantee", "exactly_once_v2");
    config.put("commit.interval.ms", "1000");
    config.put("auto.offset.reset", "earliest");
    config.put("replication.factor", "1");
    config.put("statestore.cache.max.bytes", "67108864");
    config.put("max.poll.records", "10000");
    config.put("linger.ms", "20");
    config.put("producer.batch.size", "262144");
    Topology topology = new Topology();
    topology.addSource("in", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), arguments[1]);
    topology.addProcessor("update", (ProcessorSupplier<byte[], byte[], Void, Void>) Update::new, "in");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("bags"), Serdes.ByteArray(), Serdes.ByteArray())
            .withLoggingEnabled(Map.of())
            .withCachingEnabled(),
        "update");
    KafkaStreams streams = new KafkaStreams(topology, config);
    streams.start();
    while (SEEN.get() < n - 2048) {
      Thread.sleep(20);
    }
    double seconds = (System.nanoTime() - startNanos) / 1e9;
    System.out.printf("events_per_s %d%n", Math.round(SEEN.get() / seconds));
    Runtime.getRuntime().halt(0);
  }
}
