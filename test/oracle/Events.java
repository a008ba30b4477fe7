import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;

/**
 * Seeded streams of events.  One seed gives one stream, but for the event
 * times, which count from --start (default: the clock).
 */
abstract class Events {
    enum Kind { VALID, BROKEN, TOMBSTONE }

    /** One message to send. */
    static final class Event {
        Kind kind = Kind.VALID;
        boolean late;
        byte[] key;
        byte[] value;
    }

    final SplittableRandom random;
    private final double broken;
    private final double late;
    private final long lateMillis;
    private final long startMillis;
    private final double stepMillis;
    long number;

    Events(Args args) {
        random = new SplittableRandom(args.number("seed", 1));
        broken = args.real("broken", 0) / 100;
        late = args.real("late", 0) / 100;
        lateMillis = 1000 * args.number("late-by", 30);
        startMillis = args.has("start") ? Instant.parse(args.need("start")).toEpochMilli()
                                        : System.currentTimeMillis();
        double rate = args.real("rate", 0);
        stepMillis = 1000 / (rate > 0 ? rate : 10_000);
    }

    static Events of(Args args) {
        String kind = args.text("kind", "plain");
        switch (kind) {
            case "clicks": return new Clicks(args);
            case "orders": return new Orders(args);
            case "plain": return new Plain(args);
            default: throw new IllegalArgumentException("--kind is clicks, orders or plain, not " + kind);
        }
    }

    final Event next() {
        Event event = new Event();
        number++;
        fill(event);
        if (broken > 0 && event.value != null && random.nextDouble() < broken) {
            event.kind = Kind.BROKEN;
            event.late = false;
            event.value = spoil(event.value);
        }
        return event;
    }

    abstract void fill(Event event);

    /** What is left in the end by key, as lines to compare with a table; null: does not apply. */
    Map<Long, String> state() {
        return null;
    }

    /** Event time of this event; some are older than their neighbours. */
    final String time(Event event) {
        long millis = startMillis + (long) (number * stepMillis);
        if (late > 0 && random.nextDouble() < late) {
            event.late = true;
            millis -= 1 + random.nextLong(lateMillis);
        }
        return Instant.ofEpochMilli(millis).toString();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** One of the ways in which real messages are broken. */
    private byte[] spoil(byte[] value) {
        switch (random.nextInt(6)) {
            case 0:                         /* cut off */
                return java.util.Arrays.copyOf(value, 1 + random.nextInt(value.length - 1));
            case 1: {                       /* not UTF-8 */
                byte[] bad = value.clone();
                for (int i = bad.length / 2; i < bad.length; i++) {
                    if (Character.isLetter(bad[i])) {
                        bad[i] = (byte) 0xff;
                        return bad;
                    }
                }
                bad[bad.length / 2] = (byte) 0xff;
                return bad;
            }
            case 2:                         /* nothing at all, which is not a tombstone */
                return new byte[0];
            case 3:                         /* a second document */
                return bytes(new String(value, StandardCharsets.UTF_8) + "{}");
            case 4:                         /* not an object */
                return bytes("[1,2,3]");
            default:                        /* text where a number belongs */
                return wrongType();
        }
    }

    abstract byte[] wrongType();

    /** A clickstream, keyed by user: about 140 bytes with 7 fields. */
    static final class Clicks extends Events {
        private static final String[] ACTIONS = {"view", "click", "search", "buy"};

        Clicks(Args args) {
            super(args);
        }

        @Override
        void fill(Event event) {
            int user = random.nextInt(100_000);
            event.key = bytes(Integer.toString(user));
            event.value = bytes("{\"event_id\":" + number
                + ",\"user_id\":" + user
                + ",\"page\":\"/item/" + random.nextInt(1000)
                + "\",\"action\":\"" + ACTIONS[random.nextInt(ACTIONS.length)]
                + "\",\"value\":" + cents(random.nextInt(100_000))
                + ",\"mobile\":" + (random.nextInt(2) == 0)
                + ",\"ts\":\"" + time(event) + "\"}");
        }

        @Override
        byte[] wrongType() {
            return bytes("{\"event_id\":" + number + ",\"user_id\":\"nobody\",\"page\":\"/\"}");
        }
    }

    static String cents(int amount) {
        return amount / 100 + "." + amount / 10 % 10 + amount % 10;
    }

    /** Orders that are opened, changed and deleted; key: the order's number. */
    static final class Orders extends Events {
        private static final String[] STATUS = {"new", "paid", "packed", "shipped"};

        private static final class Order {
            long id;
            int customer;
            int amount;
            int version;

            String status() {
                return STATUS[Math.min(version, STATUS.length) - 1];
            }
        }

        private final List<Order> open = new ArrayList<>();
        private final int keys;
        private final boolean jsonKey;
        private long lastId;

        Orders(Args args) {
            super(args);
            keys = (int) args.number("keys", 2000);
            jsonKey = args.has("json-key");
            if (args.has("transactional") && args.real("abort-percent", 0) > 0) {
                throw new IllegalArgumentException("orders cannot be aborted: their state would not follow");
            }
            if (args.real("broken", 0) > 0) {
                throw new IllegalArgumentException("orders cannot be broken: their state would not follow");
            }
        }

        @Override
        void fill(Event event) {
            double dice = random.nextDouble();
            Order order;

            if (open.isEmpty() || open.size() < keys && dice < 0.4) {
                order = new Order();
                order.id = ++lastId;
                order.customer = random.nextInt(10_000);
                order.amount = random.nextInt(1_000_000);
                open.add(order);
            } else {
                int at = random.nextInt(open.size());
                order = open.get(at);
                if (dice > 0.9) {
                    open.set(at, open.get(open.size() - 1));
                    open.remove(open.size() - 1);
                    event.kind = Kind.TOMBSTONE;
                }
            }
            event.key = bytes(jsonKey ? "{\"order_id\":" + order.id + "}" : Long.toString(order.id));
            if (event.kind == Kind.TOMBSTONE) {
                return;
            }
            order.version++;
            event.value = bytes("{\"order_id\":" + order.id
                + ",\"customer\":" + order.customer
                + ",\"status\":\"" + order.status()
                + "\",\"amount\":" + cents(order.amount)
                + ",\"version\":" + order.version
                + ",\"changed_at\":\"" + time(event) + "\"}");
        }

        @Override
        byte[] wrongType() {
            throw new IllegalStateException();
        }

        @Override
        Map<Long, String> state() {
            Map<Long, String> lines = new TreeMap<>();
            for (Order order : open) {
                lines.put(order.id, order.id + "|" + order.customer + "|" + order.status()
                    + "|" + cents(order.amount) + "|" + order.version);
            }
            return lines;
        }
    }

    /** Numbered messages, readable as json (n, pad) and as text; every tenth without a key. */
    static final class Plain extends Events {
        private static final char[] HEX = "0123456789abcdef".toCharArray();
        private final int size;
        private final long seed;

        Plain(Args args) {
            super(args);
            size = (int) args.number("size", 40);
            seed = args.number("seed", 1);
        }

        @Override
        void fill(Event event) {
            StringBuilder pad = new StringBuilder();
            for (int i = size > 0 ? random.nextInt(size + 1) : 0; i > 0; i--) {
                pad.append(HEX[random.nextInt(16)]);
            }
            if (number % 10 != 0) {
                event.key = bytes("k" + random.nextInt(1000));
            }
            event.value = bytes("{\"n\":" + number + ",\"seed\":" + seed + ",\"pad\":\"" + pad + "\"}");
        }

        @Override
        byte[] wrongType() {
            return bytes("{\"n\":\"one\",\"pad\":\"\"}");
        }
    }
}
