import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Command line words: {@code --name value}, switches without a value, and the rest in order. */
final class Args {
    private final Map<String, String> named = new HashMap<>();
    final List<String> rest = new ArrayList<>();

    Args(List<String> words) {
        for (int i = 0; i < words.size(); i++) {
            String word = words.get(i);
            if (!word.startsWith("--")) {
                rest.add(word);
            } else if (i + 1 < words.size() && !words.get(i + 1).startsWith("--")) {
                named.put(word.substring(2), words.get(++i));
            } else {
                named.put(word.substring(2), "");
            }
        }
    }

    boolean has(String name) {
        return named.containsKey(name);
    }

    String text(String name, String otherwise) {
        return named.getOrDefault(name, otherwise);
    }

    String need(String name) {
        String value = named.get(name);
        if (value == null || value.isEmpty()) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    long number(String name, long otherwise) {
        String value = named.get(name);
        return value == null ? otherwise : Long.parseLong(value.replace("_", ""));
    }

    double real(String name, double otherwise) {
        String value = named.get(name);
        return value == null ? otherwise : Double.parseDouble(value);
    }

    /** Words of {@code other} are added where this has none of that name. */
    void defaults(Args other) {
        other.named.forEach(named::putIfAbsent);
    }
}
