// Follows the embeddings topic from Java: java -cp "$KAFKA_HOME/libs/*" Reader.java 127.0.0.1:9092 embeddings GROUP
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

public final class Reader {
    private final Map<String, Long> newest = new HashMap<>(); // bound it, or compare with the seq in your database

    /** The vectors of a user: put them into your database under the user, unless a higher seq is there. */
    private void put(String user, long seq, float[] vectors) {
        System.out.println("put\t" + user + "\t" + seq + "\t" + vectors.length);
    }

    /** The user was erased: delete what you hold. */
    private void delete(String user) {
        System.out.println("delete\t" + user);
    }

    private void handle(ConsumerRecord<String, byte[]> record) {
        String user = record.key();
        if (user == null || user.isEmpty()) return;
        if (record.value() == null) { // null means erased
            newest.remove(user);
            delete(user);
            return;
        }
        if (!"1".equals(header(record, "lurm-format"))) return; // not ours, or of another version
        long seq = Long.parseLong(header(record, "seq"));
        if (seq < newest.getOrDefault(user, Long.MIN_VALUE)) return; // read again after a newer one
        ByteBuffer bytes = ByteBuffer.wrap(record.value()).order(ByteOrder.LITTLE_ENDIAN);
        String[] shape = header(record, "shape").split(","); // vectors, width
        float[] vectors = new float[Integer.parseInt(shape[0]) * Integer.parseInt(shape[1])];
        boolean half = "float16".equals(header(record, "dtype"));
        for (int i = 0; i < vectors.length; i++) vectors[i] = half ? half(bytes.getShort()) : bytes.getFloat();
        put(user, seq, vectors);
        newest.put(user, seq);
    }

    public static void main(String[] arguments) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("group.id", arguments[2]);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest"); // the topic holds everybody, not only who changes from now on
        settings.put("enable.auto.commit", "false");
        Reader reader = new Reader();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(arguments[1]));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) reader.handle(record);
                consumer.commitSync(); // only what was handled; what throws above is read again after a restart
            }
        }
    }

    private static String header(ConsumerRecord<?, ?> record, String name) {
        Header header = record.headers().lastHeader(name);
        return header == null ? null : new String(header.value(), StandardCharsets.UTF_8);
    }

    private static float half(short bits) {
        int exponent = bits >> 10 & 31;
        float size = exponent == 0 ? Math.scalb(bits & 1023, -24) : Math.scalb(1024 + (bits & 1023), exponent - 25);
        return bits < 0 ? -size : size;
    }
}
