"""What a careful user would write: Kafka to a table, exactly once, by COPY.

python_copy.py BOOTSTRAP TOPIC PARTITIONS CONNINFO TABLE BATCH

Reads the topic from the offsets in table python_offsets (part, next_offset) to its end and writes
the rows and the next offsets of each batch in one transaction.
"""
import sys
from operator import itemgetter

import orjson
import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition

COLUMNS = ("event_id", "user_id", "page", "action", "value", "mobile", "ts")


def main(bootstrap, topic, partitions, conninfo, table, batch):
    connection = psycopg.connect(conninfo)
    cursor = connection.cursor()
    start = dict(cursor.execute("SELECT part, next_offset FROM python_offsets").fetchall())
    connection.commit()
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": "python_copy",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "queued.min.messages": 1000000,
        "fetch.wait.max.ms": 100,
    })
    consumer.assign([TopicPartition(topic, p, start.get(p, 0)) for p in range(partitions)])
    copy = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN"
    left = partitions
    loads = orjson.loads
    columns = itemgetter(*COLUMNS)
    while left:
        offsets = {}
        rows = []
        for message in consumer.consume(batch, 1):
            error = message.error()
            if error is None:
                offsets[message.partition()] = message.offset() + 1
                rows.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                left -= 1
            else:
                raise SystemExit(str(error))
        if not rows:
            continue
        with cursor.copy(copy) as out:
            write = out.write_row
            for value in rows:
                write(columns(loads(value)))
        cursor.executemany("INSERT INTO python_offsets VALUES (%s, %s) ON CONFLICT (part) "
                           "DO UPDATE SET next_offset = EXCLUDED.next_offset", list(offsets.items()))
        connection.commit()


if __name__ == "__main__":
    _, bootstrap, topic, partitions, conninfo, table, batch = sys.argv
    main(bootstrap, topic, int(partitions), conninfo, table, int(batch))
