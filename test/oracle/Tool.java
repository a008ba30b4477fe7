import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What the tests ask of a Kafka cluster.
 *
 *   Tool BOOTSTRAP COMMAND ...      one command
 *   Tool BOOTSTRAP serve            commands from stdin, one a line; the answer's
 *                                   lines, then OK or ERROR and the reason
 *
 * Words are separated by blanks, or by tabs where the line has a tab.  A command
 * returns when the broker's metadata shows its effect, at the latest after 30 s.
 */
final class Tool {
    private static final String HELP = String.join("\n",
        "ready                                wait until the broker serves",
        "topics                               names, partitions",
        "create TOPIC [PARTITIONS] [k=v ...]  with topic settings",
        "delete TOPIC                         until it is gone",
        "configure TOPIC k=v ...              change topic settings",
        "add-partitions TOPIC TOTAL",
        "delete-records TOPIC PART BEFORE     raises the low watermark",
        "offsets TOPIC                        part, low, last stable, high",
        "topic-id TOPIC",
        "group GROUP [TOPIC]                  topic, part, current, end, lag",
        "set-group GROUP TOPIC PART OFFSET",
        "scram-user NAME PASSWORD             SCRAM-SHA-512, new or with another password",
        "allow USER OPERATION TYPE PATTERN    an ACL; PATTERN may end in *; TYPE is TOPIC or GROUP",
        "disallow USER OPERATION TYPE PATTERN takes it back",
        "send TOPIC PART KEY VALUE            one message; - is null, part - is any, \\xHEX raw bytes",
        "dump TOPIC                           part, offset, value as \\\\x hex, read_committed",
        "produce ...                          as Producer, without --bootstrap",
        "oracle ...                           as Oracle, without --bootstrap");

    private final String bootstrap;
    private final Admin admin;
    private KafkaProducer<byte[], byte[]> producer;

    private Tool(String bootstrap) {
        Properties p = new Properties();
        p.put(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        p.put(AdminClientConfig.REQUEST_TIMEOUT_MS_CONFIG, 5_000);
        p.put(AdminClientConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, 30_000);
        p.put(AdminClientConfig.RECONNECT_BACKOFF_MAX_MS_CONFIG, 200);
        this.bootstrap = bootstrap;
        this.admin = Admin.create(p);
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void await(String what, Condition condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        Exception last = null;
        do {
            try {
                if (condition.holds()) {
                    return;
                }
            } catch (ExecutionException e) {
                last = e;
            }
            Thread.sleep(20);
        } while (System.nanoTime() < deadline);
        throw new IllegalStateException("timeout: " + what + (last == null ? "" : ": " + last.getCause()));
    }

    private TopicDescription describe(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    /** All partitions have a leader, and there are as many as wanted. */
    private void awaitTopic(String topic, int partitions) throws Exception {
        await("leaders of " + topic, () -> {
            TopicDescription description = describe(topic);
            for (TopicPartitionInfo info : description.partitions()) {
                if (info.leader() == null || info.leader().isEmpty()) {
                    return false;
                }
            }
            return description.partitions().size() == partitions && !ends(topic, null).isEmpty();
        });
    }

    private void create(List<String> words) throws Exception {
        String topic = words.get(0);
        int partitions = 1;
        Map<String, String> settings = new HashMap<>();

        for (String word : words.subList(1, words.size())) {
            if (word.contains("=")) {
                settings.put(word.substring(0, word.indexOf('=')), word.substring(word.indexOf('=') + 1));
            } else {
                partitions = Integer.parseInt(word);
            }
        }
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(settings))).all().get();
        awaitTopic(topic, partitions);
    }

    private void delete(String topic) throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        await("end of " + topic, () -> !admin.listTopics().names().get().contains(topic));
    }

    private void configure(List<String> words) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, words.get(0));
        List<AlterConfigOp> changes = new ArrayList<>();
        for (String word : words.subList(1, words.size())) {
            int at = word.indexOf('=');
            changes.add(new AlterConfigOp(new ConfigEntry(word.substring(0, at), word.substring(at + 1)),
                AlterConfigOp.OpType.SET));
        }
        admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
    }

    private void addPartitions(String topic, int total) throws Exception {
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(total))).all().get();
        awaitTopic(topic, total);
    }

    private void deleteRecords(String topic, int part, long before) throws Exception {
        TopicPartition place = new TopicPartition(topic, part);
        admin.deleteRecords(Map.of(place, RecordsToDelete.beforeOffset(before))).all().get();
    }

    private Map<Integer, Long> offsets(String topic, OffsetSpec spec, IsolationLevel level) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        Map<Integer, Long> answer = new TreeMap<>();
        for (TopicPartitionInfo info : describe(topic).partitions()) {
            asked.put(new TopicPartition(topic, info.partition()), spec);
        }
        admin.listOffsets(asked, new ListOffsetsOptions(level)).all().get()
            .forEach((place, found) -> answer.put(place.partition(), found.offset()));
        return answer;
    }

    private Map<Integer, Long> ends(String topic, IsolationLevel level) throws Exception {
        return offsets(topic, OffsetSpec.latest(), level == null ? IsolationLevel.READ_UNCOMMITTED : level);
    }

    private void printOffsets(String topic, PrintStream out) throws Exception {
        Map<Integer, Long> low = offsets(topic, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED);
        Map<Integer, Long> stable = ends(topic, IsolationLevel.READ_COMMITTED);
        ends(topic, null).forEach((part, high) ->
            out.println(part + " " + low.get(part) + " " + stable.get(part) + " " + high));
    }

    /** As kafka-consumer-groups.sh --describe: every partition that the group has committed. */
    private void printGroup(String group, String topic, PrintStream out) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed =
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        Set<String> lines = new TreeSet<>();
        for (Map.Entry<TopicPartition, OffsetAndMetadata> entry : committed.entrySet()) {
            TopicPartition place = entry.getKey();
            if (entry.getValue() == null || topic != null && !topic.equals(place.topic())) {
                continue;
            }
            long end = ends(place.topic(), null).get(place.partition());
            long current = entry.getValue().offset();
            lines.add(place.topic() + " " + place.partition() + " " + current + " " + end + " " + (end - current));
        }
        lines.forEach(out::println);
    }

    private static AclBinding acl(List<String> words) {
        String name = words.get(3);
        PatternType pattern = name.endsWith("*") && name.length() > 1 ? PatternType.PREFIXED : PatternType.LITERAL;
        return new AclBinding(
            new ResourcePattern(ResourceType.fromString(words.get(2)),
                pattern == PatternType.PREFIXED ? name.substring(0, name.length() - 1) : name, pattern),
            new AccessControlEntry("User:" + words.get(0), "*", AclOperation.fromString(words.get(1)),
                AclPermissionType.ALLOW));
    }

    private void allow(List<String> words, boolean allowed) throws Exception {
        AclBinding acl = acl(words);
        if (allowed) {
            admin.createAcls(List.of(acl)).all().get();
        } else {
            admin.deleteAcls(List.of(acl.toFilter())).all().get();
        }
        await("the ACL", () -> admin.describeAcls(acl.toFilter()).values().get().isEmpty() != allowed);
    }

    private void scramUser(String name, String password) throws Exception {
        ScramCredentialInfo info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096);
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(name, info, password))).all().get();
        await("user " + name, () -> admin.describeUserScramCredentials(List.of(name)).all().get().containsKey(name));
    }

    private static byte[] raw(String word) {
        if (word.equals("-")) {
            return null;
        }
        if (!word.startsWith("\\x")) {
            return word.getBytes(StandardCharsets.UTF_8);
        }
        byte[] bytes = new byte[word.length() / 2 - 1];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(word.substring(2 + 2 * i, 4 + 2 * i), 16);
        }
        return bytes;
    }

    private void send(List<String> words, PrintStream out) throws Exception {
        if (producer == null) {
            Properties p = new Properties();
            p.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
            p.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
            p.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
            p.put(ProducerConfig.ACKS_CONFIG, "all");
            producer = new KafkaProducer<>(p);
        }
        Integer part = words.get(1).equals("-") ? null : (Integer) Integer.parseInt(words.get(1));
        out.println(producer.send(new ProducerRecord<>(words.get(0), part,
            raw(words.get(2)), raw(words.get(3)))).get().offset());
    }

    private List<String> withBootstrap(List<String> words) {
        List<String> all = new ArrayList<>(List.of("--bootstrap", bootstrap));
        all.addAll(words);
        return all;
    }

    private void run(List<String> all, PrintStream out) throws Exception {
        List<String> words = all.subList(1, all.size());
        switch (all.get(0)) {
            case "ready":
                await("the broker", () -> !admin.describeCluster().nodes().get().isEmpty());
                break;
            case "topics":
                for (String topic : new TreeSet<>(admin.listTopics().names().get())) {
                    out.println(topic + " " + describe(topic).partitions().size());
                }
                break;
            case "create": create(words); break;
            case "delete": delete(words.get(0)); break;
            case "configure": configure(words); break;
            case "add-partitions": addPartitions(words.get(0), Integer.parseInt(words.get(1))); break;
            case "delete-records":
                deleteRecords(words.get(0), Integer.parseInt(words.get(1)), Long.parseLong(words.get(2)));
                break;
            case "offsets": printOffsets(words.get(0), out); break;
            case "topic-id": out.println(describe(words.get(0)).topicId()); break;
            case "group": printGroup(words.get(0), words.size() > 1 ? words.get(1) : null, out); break;
            case "set-group":
                admin.alterConsumerGroupOffsets(words.get(0), Map.of(
                    new TopicPartition(words.get(1), Integer.parseInt(words.get(2))),
                    new OffsetAndMetadata(Long.parseLong(words.get(3))))).all().get();
                break;
            case "scram-user": scramUser(words.get(0), words.get(1)); break;
            case "allow": allow(words, true); break;
            case "disallow": allow(words, false); break;
            case "send": send(words, out); break;
            case "dump": Oracle.dump(bootstrap, words.get(0), out); break;
            case "produce": Producer.produce(withBootstrap(words), out); break;
            case "oracle": Oracle.read(withBootstrap(words), out); break;
            default: throw new IllegalArgumentException("unknown command " + all.get(0));
        }
    }

    private static String reason(Exception e) {
        Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
        String name = cause instanceof IndexOutOfBoundsException ? "too few words" : cause.getClass().getSimpleName();
        return name + ": " + cause.getMessage();
    }

    private void serve() throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            try {
                if (!line.isBlank()) {
                    run(Arrays.asList(line.contains("\t") ? line.split("\t", -1) : line.split(" +")), System.out);
                }
                System.out.println("OK");
            } catch (Exception e) {
                System.out.println("ERROR " + reason(e).replace('\n', ' '));
            }
            System.out.flush();
        }
    }

    private void close() {
        if (producer != null) {
            producer.close();
        }
        admin.close();
    }

    public static void main(String[] words) throws Exception {
        if (words.length < 2) {
            System.err.println("Tool BOOTSTRAP COMMAND ..., or Tool BOOTSTRAP serve\n" + HELP);
            System.exit(2);
        }
        Tool tool = new Tool(words[0]);
        int code = 0;
        try {
            if (words[1].equals("serve")) {
                tool.serve();
            } else {
                tool.run(Arrays.asList(words).subList(1, words.length), System.out);
            }
        } catch (Exception e) {
            System.err.println("Tool: " + reason(e));
            code = 1;
        }
        System.out.flush();
        tool.close();
        System.exit(code);
    }
}
