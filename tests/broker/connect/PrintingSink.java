import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.sink.SinkConnector;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.sink.SinkTask;

/** A line per record as any sink sees it: key, bytes of the value, then every header as name=value. */
public class PrintingSink extends SinkConnector {
    private Map<String, String> settings;

    @Override public String version() { return "1"; }
    @Override public void start(Map<String, String> given) { settings = given; }
    @Override public void stop() { }
    @Override public Class<? extends Task> taskClass() { return Printer.class; }
    @Override public List<Map<String, String>> taskConfigs(int most) { return List.of(settings); }
    @Override public ConfigDef config() {
        return new ConfigDef().define("file", ConfigDef.Type.STRING, ConfigDef.Importance.HIGH, "where to");
    }

    /** Appends to the file. */
    public static class Printer extends SinkTask {
        private String file;

        @Override public String version() { return "1"; }
        @Override public void start(Map<String, String> given) { file = given.get("file"); }
        @Override public void stop() { }
        @Override public void put(Collection<SinkRecord> records) {
            try (FileOutputStream out = new FileOutputStream(file, true)) {
                for (SinkRecord record : records) {
                    StringBuilder line = new StringBuilder("key=" + record.key() + " bytes=");
                    line.append(record.value() == null ? "erased" : String.valueOf(((byte[]) record.value()).length));
                    for (Header header : record.headers()) {
                        line.append(' ').append(header.key()).append('=').append(header.value());
                    }
                    out.write(line.append('\n').toString().getBytes(StandardCharsets.UTF_8));
                }
            } catch (IOException error) {
                throw new ConnectException(error);
            }
        }
    }
}
