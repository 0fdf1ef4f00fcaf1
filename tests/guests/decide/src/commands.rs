//! Calls of the host, written as words: `set k v 0; get k`. Answers are separated in the same way.

use waspmq_plugin_sdk::host;

/// Does what the commands ask and tells what the host answered.
pub(crate) fn run(commands: &str) -> String {
    commands.split("; ").map(one).collect::<Vec<_>>().join("; ")
}

fn one(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["get", key] => match host::kv_get(key) {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        },
        ["set", key, value, ttl] => host::kv_set(key, value.as_bytes(), number(ttl)).to_string(),
        ["delete", key] => {
            host::kv_delete(key);
            "deleted".to_owned()
        }
        ["cas", key, expected, value, ttl] => {
            let expected = (*expected != "-").then_some(expected.as_bytes());
            host::kv_compare_and_set(key, expected, value.as_bytes(), number(ttl)).to_string()
        }
        ["add", key, delta, ttl] => {
            let sum = host::kv_add(key, delta.parse().unwrap_or(0), number(ttl));
            sum.map_or_else(|| "none".to_owned(), |sum| sum.to_string())
        }
        ["take", bucket, amount, per_second, burst] => {
            let number = |text| u32::try_from(number(text)).unwrap_or(0);
            host::take(bucket, number(amount), number(per_second), number(burst)).to_string()
        }
        ["now"] => host::now().to_string(),
        ["random"] => host::random().to_string(),
        ["online", user] => host::is_online(user).to_string(),
        ["group", group] => host::group_size(group).to_string(),
        ["loads", version] => {
            let loads: Vec<String> = host::in_flight(number(version)).iter().map(u32::to_string).collect();
            if loads.is_empty() { "none".to_owned() } else { loads.join(",") }
        }
        ["observe", name, value] => {
            host::histogram(name, number(value));
            "observed".to_owned()
        }
        ["fill", value_bytes] => fill(number(value_bytes)),
        _ => "unknown command".to_owned(),
    }
}

/// Sets values until one is refused; tells how many there were room for.
fn fill(value_bytes: u64) -> String {
    let value = vec![b'x'; usize::try_from(value_bytes).unwrap_or(0)];
    let room = (0..60).take_while(|n| host::kv_set(&format!("fill{n}"), &value, 0)).count();
    room.to_string()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
