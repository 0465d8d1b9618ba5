import Glibc

/// What a finished process took.
struct Measurement {
  let seconds: Double
  let peakBytes: Int
}

/// Runs a program to its end, its output thrown away. Traps if it cannot be started or fails: a benchmark of a failure
/// measures nothing.
func measure(_ words: [String]) -> Measurement {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
  defer { posix_spawn_file_actions_destroy(&actions) }
  var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
  defer { for argument in arguments { free(argument) } }
  var child = pid_t()
  let start = now()
  let failure = posix_spawnp(&child, words[0], &actions, nil, &arguments, environ)
  precondition(failure == 0, "cannot start \(words[0]): \(String(cString: strerror(failure)))")
  var status: Int32 = 0
  var usage = rusage()
  precondition(wait4(child, &status, 0, &usage) == child, "lost \(words[0])")
  let seconds = now() - start
  precondition(status == 0, "failed: \(words.joined(separator: " "))")
  return Measurement(seconds: seconds, peakBytes: usage.ru_maxrss << 10)
}

/// Seconds since an arbitrary moment.
func now() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// The middle value; the mean of the middle two.
func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/// The directory of this program, where peft-tool stands beside it.
var programDirectory: String {
  var buffer = [CChar](repeating: 0, count: 4096)
  let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
  precondition(count > 0, "cannot find this program")
  let path = String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  return path.split(separator: "/").dropLast().map { "/" + $0 }.joined()
}

/// This process's greatest resident set so far.
var ownPeakBytes: Int {
  var usage = rusage()
  getrusage(Int32(RUSAGE_SELF.rawValue), &usage)
  return usage.ru_maxrss << 10
}

/// The last line that a shell's command prints; empty if it cannot be started.
func lastLine(of command: String) -> String {
  guard let pipe = popen(command, "r") else { return "" }
  defer { pclose(pipe) }
  var line = [CChar](repeating: 0, count: 4096)
  var text = ""
  while fgets(&line, Int32(line.count), pipe) != nil {
    text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
  return text.last == "\n" ? String(text.dropLast()) : text
}
