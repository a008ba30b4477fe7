import java.io.BufferedWriter;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;

import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Says what a topic holds, by Kafka's own Java client: an independent
 * read_committed reader of all partitions from their first offset to the end
 * as it stood at the start.
 *
 *   Oracle --bootstrap B --topic T [--out FILE] [--from 0:120,1:88] [--timeout SECONDS]
 *
 * FILE gets a line a message, sorted: part offset md5(key) md5(value), with -
 * for null.  The last line printed:
 *
 *   read topic=T messages=N tombstones=N values=MD5
 *
 * where values is the md5 over the sorted md5s of all values.
 */
final class Oracle {
    private static final char[] HEX = "0123456789abcdef".toCharArray();

    private Oracle() {
    }

    private static KafkaConsumer<byte[], byte[]> open(String bootstrap) {
        Properties p = new Properties();
        p.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        p.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        p.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        p.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        p.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        p.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        p.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        p.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 5000);
        p.put(ConsumerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 200);
        return new KafkaConsumer<>(p);
    }

    private static List<TopicPartition> partitions(KafkaConsumer<?, ?> consumer, String topic) {
        List<PartitionInfo> infos = consumer.partitionsFor(topic);
        List<TopicPartition> parts = new ArrayList<>();

        if (infos == null || infos.isEmpty()) {
            throw new IllegalStateException("topic " + topic + " does not exist");
        }
        for (PartitionInfo info : infos) {
            parts.add(new TopicPartition(topic, info.partition()));
        }
        return parts;
    }

    private static void seek(KafkaConsumer<?, ?> consumer, List<TopicPartition> parts, String from) {
        Map<TopicPartition, Long> first = consumer.beginningOffsets(parts);
        first.forEach(consumer::seek);
        if (from == null) {
            return;
        }
        for (String pair : from.split(",")) {
            String[] words = pair.split(":");
            consumer.seek(new TopicPartition(parts.get(0).topic(), Integer.parseInt(words[0])),
                Long.parseLong(words[1]));
        }
    }

    static String md5(MessageDigest digest, byte[] bytes) {
        if (bytes == null) {
            return "-";
        }
        byte[] sum = digest.digest(bytes);
        char[] text = new char[32];
        for (int i = 0; i < 16; i++) {
            text[2 * i] = HEX[sum[i] >> 4 & 15];
            text[2 * i + 1] = HEX[sum[i] & 15];
        }
        return new String(text);
    }

    private interface Sink {
        void take(ConsumerRecord<byte[], byte[]> record) throws Exception;
    }

    private static final class Line {
        int part;
        long offset;
        String key;
        String value;
    }

    /** Every message from the consumer's positions to the ends as they are now. */
    private static void readAll(KafkaConsumer<byte[], byte[]> consumer, List<TopicPartition> parts,
            long deadline, Sink sink) throws Exception {
        Map<TopicPartition, Long> ends = consumer.endOffsets(parts);
        Set<TopicPartition> open = new HashSet<>(parts);

        while (true) {
            open.removeIf(part -> consumer.position(part) >= ends.get(part));
            if (open.isEmpty()) {
                return;
            }
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("timeout, not at the end of " + open);
            }
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                if (record.offset() < ends.get(new TopicPartition(record.topic(), record.partition()))) {
                    sink.take(record);
                }
            }
        }
    }

    private static void readTopic(Args args, String topic, Sink sink) throws Exception {
        try (KafkaConsumer<byte[], byte[]> consumer = open(args.need("bootstrap"))) {
            List<TopicPartition> parts = partitions(consumer, topic);
            consumer.assign(parts);
            seek(consumer, parts, args.text("from", null));
            readAll(consumer, parts, System.nanoTime() + args.number("timeout", 60) * 1_000_000_000L, sink);
        }
    }

    private static void write(List<Line> lines, Path file) throws Exception {
        lines.sort((a, b) -> a.part != b.part ? Integer.compare(a.part, b.part)
                                              : Long.compare(a.offset, b.offset));
        try (BufferedWriter out = Files.newBufferedWriter(file, StandardCharsets.US_ASCII)) {
            for (Line line : lines) {
                out.write(line.part + " " + line.offset + " " + line.key + " " + line.value + "\n");
            }
        }
    }

    static void read(List<String> words, PrintStream out) throws Exception {
        Args args = new Args(words);
        String topic = args.need("topic");
        List<Line> lines = new ArrayList<>();
        MessageDigest digest = MessageDigest.getInstance("MD5");

        readTopic(args, topic, record -> {
            Line line = new Line();
            line.part = record.partition();
            line.offset = record.offset();
            line.key = md5(digest, record.key());
            line.value = md5(digest, record.value());
            lines.add(line);
        });
        if (args.has("out")) {
            write(lines, Path.of(args.need("out")));
        }
        List<String> values = new ArrayList<>();
        long tombstones = 0;
        for (Line line : lines) {
            values.add(line.value);
            tombstones += line.value.equals("-") ? 1 : 0;
        }
        Collections.sort(values);
        for (String value : values) {
            digest.update(value.getBytes(StandardCharsets.US_ASCII));
        }
        out.println("read topic=" + topic + " messages=" + lines.size()
            + " tombstones=" + tombstones + " values=" + md5(digest, new byte[0]));
    }

    /** All values as bytes that COPY reads into a bytea; tombstones as \\N. */
    static void dump(String bootstrap, String topic, PrintStream out) throws Exception {
        readTopic(new Args(List.of("--bootstrap", bootstrap)), topic, record -> {
            StringBuilder line = new StringBuilder();
            line.append(record.partition()).append(' ').append(record.offset()).append(' ');
            if (record.value() == null) {
                line.append("\\N");
            } else {
                line.append("\\\\x");
                for (byte b : record.value()) {
                    line.append(HEX[b >> 4 & 15]).append(HEX[b & 15]);
                }
            }
            out.println(line);
        });
    }

    public static void main(String[] words) throws Exception {
        try {
            read(Arrays.asList(words), System.out);
        } catch (IllegalArgumentException | IllegalStateException e) {
            System.err.println("Oracle: " + e.getMessage());
            System.exit(1);
        }
    }
}
