-- Window functions on any table, no Kafka involved
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';

--
-- tumble
--
SELECT kappa.tumble(timestamptz '2024-05-05 10:07:33.5+00', '5 minutes');
SELECT kappa.tumble('2024-05-05 10:07:33.5+00', '5 minutes');	-- timestamptz is the default
SELECT kappa.tumble('2024-05-05 10:07:33.5+00', '5 minutes', origin => '2000-01-01 00:01+00');
SELECT kappa.tumble(timestamp '2024-05-05 10:07:33.5', '5 minutes');
SELECT kappa.tumble(date '2024-05-05', '7 days'), kappa.tumble(date '2024-05-05', '3 months');

-- a window holds its start, not its end
SELECT t, kappa.tumble(t, '1 minute')
FROM unnest('{1969-12-31 23:59:59.999999+00, 1970-01-01 00:00+00, 1970-01-01 00:00:59.999999+00, 1970-01-01 00:01+00}'::timestamptz[]) t;

-- as date_bin, on both sides of the epoch and of the origin
SELECT size, count(*), count(*) FILTER (WHERE lower(w) <> date_bin(size, t, origin)
                                           OR upper(w) <> date_bin(size, t, origin) + size) AS wrong
FROM (SELECT size, t, origin, kappa.tumble(t, size, origin) AS w
      FROM unnest('{1 us, 1 ms, 1 s, 7 s, 1 min, 15 min, 1 hour, 36 hours, 1 day, 1 week, 10 days 3 hours}'::interval[]) size,
           generate_series(timestamptz '1899-01-01 00:00+00', '2101-01-01 00:00+00', '97 days 7:13:11.123457') t,
           unnest('{1970-01-01 00:00+00, 2001-02-03 04:05:06.789+00, 1850-01-01 12:00+00}'::timestamptz[]) origin) s
GROUP BY size ORDER BY size;

-- months and years, as date_trunc
SELECT size, count(*), count(*) FILTER (WHERE lower(w) <> date_trunc(unit, t) OR upper(w) <> date_trunc(unit, t) + size) AS wrong
FROM (SELECT size, unit, t, kappa.tumble(t, size) AS w
      FROM (VALUES (interval '1 month', 'month'), ('3 months', 'quarter'), ('1 year', 'year')) v(size, unit),
           generate_series(timestamp '1599-01-01', '2401-01-01', '5 days 7:13:11') t) s
GROUP BY size ORDER BY size;
SELECT kappa.tumble('2024-05-05 00:00+00', '5 months'), kappa.tumble('1969-12-31 00:00+00', '10 years');

-- an origin at a month's end stands for the last day of each month
SELECT kappa.tumble(d, '1 month', date '2023-01-31')
FROM generate_series(date '2024-01-15', '2024-05-15', '1 month') t, date(t) d;

-- any column with a time; the arguments may differ from row to row
SELECT size, zone, kappa.tumble(timestamptz '2024-07-01 12:34:56+00', size::interval, time_zone => zone)
FROM (VALUES ('1 hour', NULL), ('1 hour', 'Asia/Kolkata'), ('1 day', 'Asia/Kolkata'), ('1 day', NULL),
             ('1 day', 'America/New_York'), ('1 month', 'America/New_York'), ('1 day', '+05'), ('1 day', 'CET')) v(size, zone);

--
-- tumble in a time zone
--
-- the days of 2024: 23 and 25 hours where the clocks change (23:30 and 24:30 on Lord Howe)
SELECT zone, count(*), sum(upper(w) - lower(w)) AS total,
       string_agg(lower(w) AT TIME ZONE zone || ' ' || (upper(w) - lower(w)), ', ' ORDER BY w) FILTER (WHERE upper(w) - lower(w) <> '24 hours') AS others
FROM (SELECT DISTINCT zone, kappa.tumble(t, '1 day', time_zone => zone) AS w
      FROM unnest('{Europe/Berlin, America/New_York, Australia/Lord_Howe, UTC}'::text[]) zone,
           generate_series(timestamp '2024-01-01' AT TIME ZONE zone, (timestamp '2025-01-01' AT TIME ZONE zone) - interval '1 us', '1 hour') t) s
GROUP BY zone ORDER BY zone;

-- Samoa left out 30 December 2011: no window; Alaska had 18 October 1867 twice
SELECT DISTINCT kappa.tumble(t, '1 day', time_zone => 'Pacific/Apia') AS w
FROM generate_series(timestamptz '2011-12-29 00:00+00', '2011-12-31 12:00+00', '1 hour') t ORDER BY w;
SELECT upper(w) - lower(w) AS length FROM kappa.tumble('1867-10-18 20:00+00', '1 day', time_zone => 'America/Juneau') w;
-- the clock of St. John's went back from 00:01 to 23:01: the new day had begun
SELECT DISTINCT kappa.tumble(t, '1 day', time_zone => 'America/St_Johns') AS w
FROM generate_series(timestamptz '2010-11-07 01:30+00', '2010-11-07 05:00+00', '1 minute') t ORDER BY w;

-- an hour that the clock shows twice is two windows, one that it leaves out is none
SELECT t, lower(kappa.tumble(t, '1 hour', time_zone => 'Europe/Berlin')) AT TIME ZONE 'Europe/Berlin' AS hour,
       lower(kappa.tumble(t, '15 minutes', time_zone => 'Europe/Berlin')) AT TIME ZONE 'Europe/Berlin' AS quarter
FROM unnest('{2024-03-31 00:59+00, 2024-03-31 01:00+00, 2024-10-27 00:59+00, 2024-10-27 01:00+00, 2024-10-27 02:00+00}'::timestamptz[]) t;
SELECT size, day, count(DISTINCT w), min(upper(w) - lower(w)), max(upper(w) - lower(w))
FROM (SELECT size, day, kappa.tumble(t, size, time_zone => 'Europe/Berlin') AS w
      FROM unnest('{1 min, 15 min, 1 hour, 2 hours, 6 hours}'::interval[]) size,
           unnest('{2024-03-31, 2024-10-27, 2024-10-28}'::date[]) day,
           generate_series(timestamptz (day::timestamp AT TIME ZONE 'Europe/Berlin'),
                           timestamptz ((day + 1)::timestamp AT TIME ZONE 'Europe/Berlin') - interval '1 us', '1 min') t) s
GROUP BY size, day ORDER BY size, day;
-- half an hour, by whole hours: 90 and 30 minutes
SELECT DISTINCT w, upper(w) - lower(w) AS length
FROM unnest('{2024-04-06 13:00+00, 2024-10-05 14:00+00}'::timestamptz[]) d, generate_series(d, d + interval '150 minutes', '10 minutes') t,
     kappa.tumble(t, '1 hour', time_zone => 'Australia/Lord_Howe') w
ORDER BY w;

-- no gap, no overlap, every point inside, over a year and at its edges, whatever the size
CREATE TEMP TABLE probe AS
SELECT zone, size, t, kappa.tumble(t, size, time_zone => zone) AS w
FROM unnest('{Europe/Berlin, America/New_York, Australia/Lord_Howe, Pacific/Apia, America/St_Johns, Africa/Casablanca}'::text[]) zone,
     unnest('{7 min, 15 min, 45 min, 1 hour, 90 min, 5 hours, 6 hours, 23 hours, 1 day, 3 days, 1 week, 1 month, 1 year}'::interval[]) size,
     generate_series(timestamptz '2011-01-01 00:00+00', '2012-02-01 00:00+00', '9:11:13.17') t;
SELECT count(*) AS probes,
       count(*) FILTER (WHERE NOT t <@ w) AS outside,
       count(*) FILTER (WHERE kappa.tumble(lower(w), size, time_zone => zone) <> w) AS start_outside,
       count(*) FILTER (WHERE kappa.tumble(upper(w) - interval '1 us', size, time_zone => zone) <> w) AS end_outside,
       count(*) FILTER (WHERE lower(kappa.tumble(upper(w), size, time_zone => zone)) <> upper(w)) AS next_apart,
       count(*) FILTER (WHERE upper(kappa.tumble(lower(w) - interval '1 us', size, time_zone => zone)) <> lower(w)) AS previous_apart
FROM probe;
SELECT count(*) AS overlaps
FROM (SELECT w && lag(w) OVER (PARTITION BY zone, size ORDER BY w) AS bad FROM (SELECT DISTINCT zone, size, w FROM probe) p) s
WHERE bad;
-- hours as date_trunc gives them, where the clock moves by whole hours
SELECT count(*) FILTER (WHERE lower(w) <> date_trunc('hour', t, zone)) AS wrong
FROM probe WHERE size = '1 hour' AND zone IN ('Europe/Berlin', 'America/New_York', 'Africa/Casablanca');
-- before the first and after the last change that the zone's table holds
SELECT count(*) FILTER (WHERE lower(w) <> date_trunc('day', t, 'Europe/Berlin')) AS wrong
FROM (SELECT t, kappa.tumble(t, '1 day', time_zone => 'Europe/Berlin') AS w
      FROM generate_series(timestamptz '1700-01-01 00:00+00', '3300-01-01 00:00+00', '37 days 7 hours') t) s;

--
-- hop
--
SELECT kappa.hop(timestamptz '2024-05-05 10:07:33+00', '5 minutes', '1 minute');
SELECT kappa.hop(timestamptz '2024-05-05 10:07:33+00', '5 minutes', '2 minutes');
SELECT kappa.hop(timestamp '2024-05-05 10:07:33', '1 minute', '1 minute'), kappa.hop(date '2024-05-05', '2 months', '1 month');
-- slide above size leaves gaps
SELECT t, w FROM unnest('{10:00:29, 10:00:30, 10:01:00}'::time[]) h, timestamptz (timestamptz '2024-05-05 00:00+00' + h) t
LEFT JOIN LATERAL kappa.hop(t, '30 s', '1 minute') w ON true ORDER BY t;
-- against all windows that there could be
SELECT size, slide, count(*) AS rows, sum(n) AS windows,
       count(*) FILTER (WHERE windows IS DISTINCT FROM expected) AS wrong
FROM (SELECT size, slide,
             (SELECT array_agg(w) FROM kappa.hop(t, size, slide, origin => '2024-01-01 00:00:03+00') w) AS windows,
             (SELECT array_agg(tstzrange(s, s + size) ORDER BY s)
              FROM generate_series(timestamptz '2023-12-31 23:58:03+00', '2024-01-01 00:02:03+00', slide) s
              WHERE t >= s AND t < s + size) AS expected,
             (SELECT count(*) FROM kappa.hop(t, size, slide) w) AS n
      FROM (VALUES (interval '20 s', interval '5 s'), ('20 s', '20 s'), ('20 s', '15 s'), ('20 s', '30 s'), ('7 s', '2 s')) v(size, slide),
           generate_series(timestamptz '2023-12-31 23:59:33+00', '2024-01-01 00:00:43+00', '0.5 s') t) s
GROUP BY size, slide ORDER BY size, slide;
-- in a zone: always size / slide windows, each made of whole windows of tumble
SELECT size, slide, zone, min(n), max(n), bool_and(inside) AS inside, bool_and(aligned) AS aligned
FROM (SELECT size, slide, zone, count(*) AS n, bool_and(t <@ w) AS inside,
             bool_and(lower(kappa.tumble(lower(w), slide, time_zone => zone)) = lower(w)
                      AND lower(kappa.tumble(upper(w), slide, time_zone => zone)) = upper(w)) AS aligned
      FROM (VALUES (interval '7 days', interval '1 day'), ('6 hours', '2 hours'), ('1 hour', '20 min'), ('24 hours', '12 hours'), ('1 year', '3 months')) v(size, slide),
           unnest('{Europe/Berlin, Australia/Lord_Howe, Pacific/Apia}'::text[]) zone,
           generate_series(timestamptz '2011-10-01 00:00+00', '2012-05-01 00:00+00', '31:07:03') t,
           kappa.hop(t, size, slide, time_zone => zone) w
      GROUP BY size, slide, zone, t) s
GROUP BY size, slide, zone ORDER BY size, slide, zone;
-- a set that is given up half way does not leak into the next one
SELECT g, (SELECT w FROM kappa.hop(timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', '5 minutes', '1 minute') w LIMIT 1)
FROM generate_series(0, 2) g;
SELECT kappa.hop(t, '2 minutes', '1 minute') FROM generate_series(timestamptz '2024-01-01 00:00+00', '2024-01-01 02:00+00', '1 hour') t LIMIT 3;
SELECT g, s.w FROM generate_series(0, 1) g, LATERAL (SELECT kappa.hop(timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', '2 minutes', '1 minute') AS w LIMIT 1) s;

--
-- session_window
--
CREATE TEMP TABLE click (user_id int, ts timestamptz);
INSERT INTO click SELECT 1, timestamptz '2024-01-01 00:00+00' + s * interval '1 s' FROM unnest('{10, 12, 20}'::int[]) s;
INSERT INTO click SELECT 2, ts FROM click WHERE user_id = 1;
INSERT INTO click VALUES (2, '2024-01-01 00:00:16+00');		-- 12 and 16, 16 and 20: one session
INSERT INTO click SELECT 3, timestamptz '2024-01-01 00:00+00' + s * interval '1 s' FROM unnest('{10, 15, 15, 20, 25.000001}'::numeric[]) s;	-- a distance of the gap joins, a microsecond more does not
INSERT INTO click VALUES (4, '2024-01-01 00:00:10+00'), (4, NULL), (5, NULL);
SELECT user_id, ts, kappa.session_window(ts, '5 s') OVER (PARTITION BY user_id ORDER BY ts) FROM click ORDER BY user_id, ts;
SELECT user_id, ts, kappa.session_window(ts, '5 s') OVER (PARTITION BY user_id ORDER BY ts NULLS FIRST) FROM click WHERE user_id >= 4 ORDER BY user_id, ts NULLS FIRST;
SELECT DISTINCT user_id, kappa.session_window(ts::timestamp, '5 s') OVER (PARTITION BY user_id ORDER BY ts::timestamp) AS session FROM click ORDER BY 1, 2;
SELECT kappa.session_window(ts, NULL) OVER (ORDER BY ts) FROM click WHERE user_id = 1;
-- a gap from a column
SELECT DISTINCT user_id, kappa.session_window(ts, user_id * interval '4 s') OVER (PARTITION BY user_id ORDER BY ts) AS session FROM click WHERE user_id < 3 ORDER BY 1, 2;

-- against the usual two steps: mark the first row of a session, sum the marks
CREATE TEMP TABLE many AS
SELECT (g * 7919) % 10 AS k, timestamptz '2024-01-01 00:00+00' + ((g::bigint * 104729) % 1000003) * interval '1 ms' AS ts FROM generate_series(1, 20000) g;
WITH marked AS (
    SELECT k, ts, (ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) <= interval '700 ms') IS NOT TRUE AS first FROM many),
numbered AS (
    SELECT k, ts, sum(first::int) OVER (PARTITION BY k ORDER BY ts) AS n FROM marked),
two_steps AS (
    SELECT k, tstzrange(min(ts), max(ts) + interval '700 ms') AS session, count(*) FROM numbered GROUP BY k, n),
one_step AS (
    SELECT k, session, count(*) FROM (SELECT k, kappa.session_window(ts, '700 ms') OVER (PARTITION BY k ORDER BY ts) AS session FROM many) s GROUP BY k, session)
SELECT (SELECT count(*) > 100 FROM one_step) AS many,
       (SELECT count(*) FROM (TABLE one_step EXCEPT ALL TABLE two_steps) x) AS only_one,
       (SELECT count(*) FROM (TABLE two_steps EXCEPT ALL TABLE one_step) x) AS only_two;
-- one session of all rows, beside other window functions over other frames
SELECT count(DISTINCT session), min(n), max(n), bool_and(before <= ts) AS sane
FROM (SELECT ts, kappa.session_window(ts, '1 hour') OVER w AS session, row_number() OVER w AS n,
             min(ts) OVER (ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS before
      FROM many WINDOW w AS (ORDER BY ts)) s;

--
-- NULL, limits, errors
--
SELECT kappa.tumble(NULL::timestamptz, '1 s') IS NULL, kappa.tumble(now(), NULL) IS NULL, kappa.tumble(NULL::date, '1 day') IS NULL,
       (SELECT count(*) FROM kappa.hop(NULL::timestamptz, '1 s', '1 s')) AS hop_ts,
       (SELECT count(*) FROM kappa.hop(now(), NULL, '1 s')) AS hop_size, (SELECT count(*) FROM kappa.hop(now(), '1 s', NULL)) AS hop_slide;

-- the ends of time
SELECT kappa.tumble('4714-11-24 00:00:00+00 BC', '1 day'), kappa.tumble('4714-11-24 12:34:56+00 BC', '1 s');
SELECT kappa.tumble('294276-12-31 23:59:59.5+00', '0.1 s'), kappa.tumble('294276-12-30 00:00+00', '1 day');
SELECT kappa.tumble('294276-12-31 23:00+00', '30 min', origin => '4714-11-24 00:10+00 BC');
SELECT kappa.tumble('294276-12-31 00:00+00', '1 day', time_zone => 'Europe/Berlin'), kappa.tumble('4714-11-25 00:00+00 BC', '1 day', time_zone => 'Asia/Tokyo');
SELECT kappa.tumble(date '5874897-11-30', '1 month'), kappa.tumble(date '4714-12-01 BC', '1 month');
\set VERBOSITY sqlstate
SELECT kappa.tumble('294276-12-31 23:59:59.5+00', '1 s');
SELECT kappa.tumble('294276-12-31 23:30+00', '1 day', time_zone => 'Europe/Berlin');
SELECT kappa.tumble('4714-11-24 00:00:00+00 BC', '1 month');
SELECT kappa.tumble('4714-11-24 00:00:00+00 BC', '1 day', time_zone => 'Asia/Tokyo');
SELECT kappa.tumble(date '5874897-12-31', '1 day');
SELECT kappa.tumble(date '5874897-12-31', '1 month');
SELECT kappa.tumble(timestamptz '1960-01-01 00:00+00', '106751991 days');
SELECT kappa.tumble(timestamptz '2024-01-01 00:00+00', '178000000 years');
SELECT kappa.tumble(timestamptz '2024-01-01 00:00+00', '2000000000 days');
SELECT kappa.hop(timestamptz '294276-12-31 23:59:58.5+00', '2 s', '1 s');
SELECT kappa.hop(timestamptz '4714-11-24 00:00:00.5+00 BC', '2 s', '1 s');
SELECT kappa.session_window(t, '1 day') OVER (ORDER BY t) FROM (VALUES (timestamptz '294276-12-31 12:00+00')) v(t);
-- infinity has no window
SELECT kappa.tumble('infinity'::timestamptz, '1 s');
SELECT kappa.tumble('-infinity'::timestamptz, '1 month', time_zone => 'Europe/Berlin');
SELECT kappa.tumble('infinity'::date, '1 day');
SELECT kappa.tumble(now(), '1 s', origin => 'infinity');
SELECT kappa.hop('infinity'::timestamp, '1 s', '1 s');
SELECT kappa.session_window(t, '1 s') OVER (ORDER BY t) FROM (VALUES (now()), ('infinity')) v(t);
-- lengths that mean nothing
SELECT kappa.tumble(now(), '0 s');
SELECT kappa.tumble(now(), '-1 s');
SELECT kappa.tumble(now(), '-1 month');
SELECT kappa.tumble(now(), '1 day -24 hours');
SELECT kappa.tumble(now(), '1 month 1 day');
SELECT kappa.tumble(now(), '1 month 1 s');
SELECT kappa.tumble(now(), '1 day 1 hour', time_zone => 'Europe/Berlin');
SELECT kappa.tumble(now(), '24 hours', time_zone => 'Europe/Berlin');
SELECT kappa.tumble(date '2024-01-01', '12 hours');
SELECT kappa.tumble(now(), '1 day', time_zone => 'Atlantis/Poseidonis');
SELECT kappa.hop(now(), '1 min', '0 s');
SELECT kappa.hop(now(), '0 s', '1 min');
SELECT kappa.hop(now(), '3 days', '2 days');
SELECT kappa.hop(now(), '1 day', '2 days');
SELECT kappa.hop(now(), '1 day', '5 hours');
SELECT kappa.hop(now(), '1 month', '1 day');
SELECT kappa.hop(now(), '30 days', '1 month');
SELECT kappa.hop(now(), '1 year', '5 months');
SELECT kappa.hop(now(), '5 min', '2 min', time_zone => 'Europe/Berlin');
SELECT kappa.hop(now(), '1 day', '1 hour', time_zone => 'Europe/Berlin');
SELECT kappa.session_window(now(), '1 month') OVER ();
SELECT kappa.session_window(now(), '0 s') OVER ();
SELECT kappa.session_window(ts, user_id * interval '1 s') OVER (ORDER BY ts) FROM click WHERE ts IS NOT NULL;
-- 'infinity' is an interval since PostgreSQL 17; before, it is no interval at all
DO $$
BEGIN
	PERFORM kappa.tumble(now(), 'infinity'::text::interval);
	RAISE 'no error';
EXCEPTION WHEN invalid_parameter_value OR invalid_datetime_format THEN
	NULL;
END $$;
-- session windows need OVER and an order
SELECT kappa.session_window(ts, '5 s') FROM click;
SELECT kappa.session(ts, '5 s') FROM click;
SELECT kappa.session_window(ts, '5 s') OVER () FROM click WHERE user_id = 1;
SELECT kappa.session_window(ts, '5 s') OVER (PARTITION BY user_id) FROM click;
SELECT kappa.session_window(ts, '5 s') OVER (ORDER BY ts DESC) FROM click WHERE user_id = 1;
SELECT kappa.session_window(ts, '5 s') OVER (ORDER BY user_id, ts) FROM click;
\set VERBOSITY default

-- what the most likely mistakes say
SELECT kappa.tumble('infinity'::timestamptz, '1 s');
SELECT kappa.tumble(now(), '1 month 1 day');
SELECT kappa.hop(now(), '1 day', '1 hour', time_zone => 'Europe/Berlin');
SELECT kappa.hop(now(), '3 days', '2 days');
SELECT kappa.tumble('294276-12-31 23:59:59.5+00', '1 s');
SELECT kappa.session(now(), '30 s');
SELECT kappa.session_window(ts, '5 s') OVER () FROM click WHERE user_id = 1;

-- an error leaves nothing behind that the next call would use
DO $$
DECLARE
	sizes interval[] := '{1 min, 0 s, 1 min}';
	n int := 0;
	i int;
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			IF kappa.tumble(timestamptz '2024-01-01 00:00:30+00', sizes[i]) = '["2024-01-01 00:00+00","2024-01-01 00:01+00")' THEN
				n := n + 1;
			END IF;
		EXCEPTION WHEN invalid_parameter_value THEN
			n := n + 10;
		END;
	END LOOP;
	ASSERT n = 12, n;
END $$;

-- fit for indexes and for parallel plans; every function has a comment
CREATE INDEX ON click (kappa.tumble(ts, '1 day', time_zone => 'Europe/Berlin'));
SELECT p.oid::regprocedure, p.provolatile, p.proparallel, p.proisstrict, p.prokind, obj_description(p.oid, 'pg_proc') IS NOT NULL AS described
FROM pg_proc p
WHERE p.pronamespace = 'kappa'::regnamespace AND p.proname IN ('tumble', 'hop', 'session_window', 'session')
ORDER BY p.oid::regprocedure::text COLLATE "C";

DROP TABLE probe, click, many;
