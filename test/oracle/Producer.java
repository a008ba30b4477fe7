import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.SplittableRandom;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;

import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Produces seeded events.
 *
 *   Producer --bootstrap B [common options] --topic T [options] [--topic T2 ...]
 *
 *   --kind clicks|orders|plain   --seed N       --messages N | --seconds N
 *   --rate N (a second; 0: as fast as possible) --broken PERCENT
 *   --late PERCENT --late-by SECONDS            --start 2025-01-01T00:00:00Z
 *   --keys N --json-key (orders)                --size N (plain)
 *   --partition N                               --state FILE (orders: what is left)
 *   --transactional [--transaction-size N] [--abort-percent P]
 *   --status FILE (rewritten while it runs: topic, acknowledged)
 *
 * Options before the first --topic hold for all.  Each topic has a producer and
 * a thread of its own.  Counted is what the broker acknowledged (committed, if
 * transactional); a message that it refused ends the program with an error.
 * The last lines, one a topic:
 *
 *   produced topic=T messages=N valid=N broken=N tombstones=N late=N aborted=N state=N
 */
final class Producer {
    private static volatile boolean stop;

    private final Args args;
    private final String topic;
    private final Events events;
    private final AtomicLong acknowledged = new AtomicLong();
    private final AtomicReference<Exception> failure = new AtomicReference<>();
    private final long[] sent = new long[Events.Kind.values().length];
    private long late;
    private long aborted;

    private Producer(Args args) {
        this.args = args;
        this.topic = args.need("topic");
        this.events = Events.of(args);
    }

    private KafkaProducer<byte[], byte[]> open() {
        Properties p = new Properties();
        p.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, args.need("bootstrap"));
        p.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
        p.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
        p.put(ProducerConfig.ACKS_CONFIG, "all");
        p.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true);
        p.put(ProducerConfig.LINGER_MS_CONFIG, 5);
        p.put(ProducerConfig.BATCH_SIZE_CONFIG, 128 * 1024);
        p.put(ProducerConfig.BUFFER_MEMORY_CONFIG, 64L * 1024 * 1024);
        p.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, args.text("compression", "none"));
        p.put(ProducerConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 200);
        if (args.has("transactional")) {
            p.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, "producer-" + topic + "-" + args.number("seed", 1));
            p.put(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 10_000);
        }
        return new KafkaProducer<>(p);
    }

    private void run() {
        try (KafkaProducer<byte[], byte[]> producer = open()) {
            if (args.has("transactional")) {
                runTransactions(producer);
            } else {
                send(producer, limit(), sent);
                producer.flush();
            }
        } catch (Exception e) {
            failure.compareAndSet(null, e);
        }
    }

    private long limit() {
        return args.has("messages") ? args.number("messages", 0) : Long.MAX_VALUE;
    }

    private void runTransactions(KafkaProducer<byte[], byte[]> producer) {
        SplittableRandom dice = new SplittableRandom(~args.number("seed", 1));
        long size = args.number("transaction-size", 100);
        double abort = args.real("abort-percent", 0) / 100;
        long left = limit();

        producer.initTransactions();
        while (left > 0 && !done()) {
            long[] these = new long[sent.length];
            boolean drop = dice.nextDouble() < abort;
            long before = late;

            producer.beginTransaction();
            long n = send(producer, Math.min(size, left), these);
            left -= n;
            if (drop) {
                producer.flush();
                producer.abortTransaction();
                acknowledged.addAndGet(-n);
                aborted += n;
                late = before;
            } else {
                producer.commitTransaction();
                for (int i = 0; i < sent.length; i++) {
                    sent[i] += these[i];
                }
            }
        }
    }

    private long started = 0;
    private long startedMillis;
    private long paced = 0;

    private boolean done() {
        if (stop || failure.get() != null) {
            return true;
        }
        return args.has("seconds") && started != 0
            && System.nanoTime() - started >= (long) (args.real("seconds", 0) * 1e9);
    }

    /** When the message that is next was to be sent, so that a late sender hides no delay; null: now. */
    private Long due(double rate) {
        return rate <= 0 ? null : startedMillis + (long) (paced * 1000 / rate);
    }

    /** Send up to n messages at the rate; fewer at the end of the time.  Counts by kind. */
    private long send(KafkaProducer<byte[], byte[]> producer, long n, long[] counts) {
        double rate = args.real("rate", 0);
        Integer part = args.has("partition") ? (Integer) (int) args.number("partition", 0) : null;
        long done = 0;

        if (started == 0) {
            producer.partitionsFor(topic);  /* the time that connecting takes is nobody's delay */
            started = System.nanoTime();
            startedMillis = System.currentTimeMillis();
        }
        while (done < n && !done()) {
            long due = rate <= 0 ? 1000
                : (long) ((System.nanoTime() - started) / 1e9 * rate) - paced;
            if (due <= 0) {
                LockSupport.parkNanos(1_000_000);
                continue;
            }
            for (; due > 0 && done < n; due--, done++, paced++) {
                Events.Event event = events.next();
                counts[event.kind.ordinal()]++;
                late += event.late ? 1 : 0;
                producer.send(new ProducerRecord<>(topic, part, due(rate), event.key, event.value),
                    (metadata, e) -> {
                        if (e == null) {
                            acknowledged.incrementAndGet();
                        } else {
                            failure.compareAndSet(null, e);
                        }
                    });
            }
        }
        return done;
    }

    private String summary() throws IOException {
        long total = Arrays.stream(sent).sum();
        Map<Long, String> state = events.state();

        if (failure.get() != null) {
            throw new IllegalStateException("producing to " + topic + " failed: " + failure.get(), failure.get());
        }
        if (total != acknowledged.get()) {
            throw new IllegalStateException(topic + ": sent " + total + ", acknowledged " + acknowledged.get());
        }
        if (state != null && args.has("state")) {
            Files.write(Path.of(args.need("state")), state.values(), StandardCharsets.UTF_8);
        }
        return "produced topic=" + topic + " messages=" + total
            + " valid=" + sent[Events.Kind.VALID.ordinal()]
            + " broken=" + sent[Events.Kind.BROKEN.ordinal()]
            + " tombstones=" + sent[Events.Kind.TOMBSTONE.ordinal()]
            + " late=" + late + " aborted=" + aborted
            + " state=" + (state == null ? 0 : state.size());
    }

    private static List<Producer> parse(List<String> words) {
        List<List<String>> groups = new ArrayList<>();
        groups.add(new ArrayList<>());
        for (String word : words) {
            if (word.equals("--topic")) {
                groups.add(new ArrayList<>());
            }
            groups.get(groups.size() - 1).add(word);
        }
        Args common = new Args(groups.remove(0));
        List<Producer> producers = new ArrayList<>();
        for (List<String> group : groups) {
            Args args = new Args(group);
            args.defaults(common);
            if (!args.has("messages") && !args.has("seconds")) {
                throw new IllegalArgumentException("say --messages or --seconds");
            }
            producers.add(new Producer(args));
        }
        if (producers.isEmpty()) {
            throw new IllegalArgumentException("--topic is missing");
        }
        return producers;
    }

    private static void writeStatus(List<Producer> producers, Path file) throws IOException {
        List<String> lines = new ArrayList<>();
        for (Producer p : producers) {
            lines.add(p.topic + " " + p.acknowledged.get());
        }
        Path draft = Path.of(file + ".new");
        Files.write(draft, lines, StandardCharsets.UTF_8);
        Files.move(draft, file, StandardCopyOption.ATOMIC_MOVE);
    }

    static void produce(List<String> words, PrintStream out) throws Exception {
        List<Producer> producers = parse(words);
        String status = producers.get(0).args.text("status", null);
        List<Thread> threads = new ArrayList<>();

        for (Producer p : producers) {
            Thread thread = new Thread(p::run, "produce " + p.topic);
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            while (thread.isAlive()) {
                thread.join(100);
                if (status != null) {
                    writeStatus(producers, Path.of(status));
                }
            }
        }
        for (Producer p : producers) {
            out.println(p.summary());
        }
    }

    /** SIGTERM: send no more, wait for what is on its way, print the summary. */
    public static void main(String[] words) throws Exception {
        Thread main = Thread.currentThread();
        AtomicLong code = new AtomicLong(1);

        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stop = true;
            try {
                main.join(20_000);
            } catch (InterruptedException e) {
                return;
            }
            Runtime.getRuntime().halt((int) code.get());
        }));
        try {
            produce(Arrays.asList(words), System.out);
            code.set(0);
        } catch (IllegalArgumentException | IllegalStateException e) {
            System.err.println("Producer: " + e.getMessage());
        }
        System.out.flush();
    }
}
