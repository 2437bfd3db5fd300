"""Whether a process grows: least squares over samples of one lifetime, and what is allowed.

    judge(samples) -> {quantity: {"per_hour", "grew", "allowed", "is_leak", ...}}

A sample is a dictionary: t (seconds), rss, anon, db, wal (bytes), fds, threads, waiting, accepted. The first third of a lifetime
is its warm-up and is left out. What remains is cut into 40 parts, of each of which the LEAST value counts: a large message that
passes makes a peak, a leak lifts the valleys, too. Of the valleys a line is made by least squares; what it rises over the whole window is
compared with what is allowed. The allowance does not grow with the time: a longer run finds a smaller leak.

is_sharp() is the negative control: the same samples with twice what is allowed added evenly must be found to leak, quantity by
quantity. So a run whose samples are too noisy to show a leak fails.
"""

MIB = 1 << 20
PARTS = 40
WARM_UP = 1 / 3
LEAST_WINDOW_S = 8

# allowed rise over the window
ALLOWED = {
    "anon": 6 * MIB,  # memory of its own
    "rss": 12 * MIB,  # with mapped files: the log's index and libraries
    "fds": 24,  # sessions to receivers come and go
    "threads": 1.5,  # a resolver that knows nothing but failures begins anew: one thread ends, and another begins with the next question
    "wal": 24 * MIB,
}
# The database's size follows the load and what receivers hold up; whether it grows for ever is asked of its rows (run: what_is_too_old).
REPORTED = ("db", "waiting")


def window_of(samples):
    first, last = samples[0]["t"], samples[-1]["t"]
    begin = first + (last - first) * WARM_UP
    return [s for s in samples if s["t"] >= begin]


def valleys(samples, name):
    """[(t, least value)] of each part."""
    first, last = samples[0]["t"], samples[-1]["t"]
    parts = {}
    for s in samples:
        number = min(PARTS - 1, int((s["t"] - first) / max(last - first, 1e-9) * PARTS))
        if number not in parts or s[name] < parts[number][1]:
            parts[number] = (s["t"], s[name])
    return [parts[number] for number in sorted(parts)]


def slope(points):
    """Least squares: rise a second."""
    n = len(points)
    mean_t, mean_v = sum(t for t, _ in points) / n, sum(v for _, v in points) / n
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else 0.0


def judge(samples):
    """Of one lifetime. Empty when it was too short to say anything."""
    window = window_of(samples) if len(samples) > 2 else []
    if len(window) < 6 or window[-1]["t"] - window[0]["t"] < LEAST_WINDOW_S:
        return {}
    length, found = window[-1]["t"] - window[0]["t"], {}
    for name in (*ALLOWED, *REPORTED):
        rise = slope(valleys(window, name))
        found[name] = {"first": window[0][name], "last": window[-1][name], "most": max(s[name] for s in samples),
                       "per_hour": rise * 3600, "grew": rise * length}
        if name in ALLOWED:
            found[name]["allowed"] = ALLOWED[name]
            found[name]["is_leak"] = found[name]["grew"] > found[name]["allowed"]
    accepted = window[-1]["accepted"] - window[0]["accepted"]
    found["window_s"], found["accepted"] = length, accepted
    if accepted > 0:
        found["anon_bytes_per_message"] = found["anon"]["grew"] / accepted
        found["would_find_bytes_per_message"] = found["anon"]["allowed"] / accepted
    return found


def leaks(found):
    return [name for name in ALLOWED if found and found[name]["is_leak"]]


def with_leak(samples, name, amount):
    """The same with `amount` more at the end of the window, evenly from the window's begin."""
    window = window_of(samples)
    begin, end = window[0]["t"], window[-1]["t"]
    return [{**s, name: s[name] + amount * max(0.0, s["t"] - begin) / (end - begin)} for s in samples]


def is_sharp(samples):
    """The quantities whose leak would not have been seen: none, or the verdict is worth nothing."""
    return [name for name in ALLOWED if name not in leaks(judge(with_leak(samples, name, 2 * ALLOWED[name])))]
