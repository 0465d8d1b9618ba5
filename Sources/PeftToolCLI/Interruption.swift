internal import Glibc
internal import Synchronization

/// SIGINT, SIGTERM and SIGHUP as a cancelled task, so that work in progress can remove what it has written.
public enum Interruption {
  private final class Target: Sendable {
    let task: Task<Int32, Never>
    let readEnd: Int32

    init(task: Task<Int32, Never>, readEnd: Int32) {
      self.task = task
      self.readEnd = readEnd
    }
  }

  /// Where the signal handler leaves a byte. A handler, and not a blocked signal, because libraries start threads that
  /// block nothing before this program's first line.
  private static let writeEnd = Atomic<Int32>(-1)
  private static let received = Atomic<Int32>(0)
  /// How many parts of the work will end by themselves after a signal, however long that takes.
  private static let patient = Atomic<Int>(0)
  /// True while SIGINT ends a part of the work first, and the program the second time.
  private static let endsParts = Atomic<Bool>(false)
  private static let stops = Atomic<Int>(0)
  /// Milliseconds that other work has to end by itself and to remove what it wrote, on a busy machine too.
  private static let grace: Int32 = 10_000
  /// The same for work that writes nothing.
  private static let shortGrace: Int32 = 1_000

  /// The exit code of a task that returned `code`: the shell's for a signal, if one came and the task failed.
  public static func exitCode(_ code: Int32) -> Int32 {
    let number = received.load(ordering: .relaxed)
    return code == 2 && number != 0 ? 128 + number : code
  }

  /// Runs work that looks for cancellation and then saves what it has: a signal waits for it, a second one does not.
  static func patiently<Result>(_ work: () throws -> Result) rethrows -> Result {
    patient.add(1, ordering: .relaxed)
    defer { patient.subtract(1, ordering: .relaxed) }
    return try work()
  }

  /// From now on the first SIGINT is only counted, for the work to end what it is at, and the second is what the first is otherwise.
  static func endPartsFirst() { endsParts.store(true, ordering: .relaxed) }

  /// How many SIGINT came since `endPartsFirst` or `forgetStops`.
  static var stopCount: Int { stops.load(ordering: .relaxed) }

  /// Counts from none again.
  static func forgetStops() { stops.store(0, ordering: .relaxed) }

  /// Cancels the task on the first signal. Ends the process on the second, or ten seconds after the first if the work
  /// has not ended by then and is not `patiently` waited for: what was being written has a name that the next run removes.
  public static func cancel(_ task: Task<Int32, Never>) {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return }
    writeEnd.store(ends[1], ordering: .relaxed)
    var thread = pthread_t()
    pthread_create(&thread, nil, waiter, Unmanaged.passRetained(Target(task: task, readEnd: ends[0])).toOpaque())
    // A program that starts this one may have blocked them.
    var signals = sigset_t()
    sigemptyset(&signals)
    for number in [SIGINT, SIGTERM, SIGHUP] {
      signal(number, handler)
      sigaddset(&signals, number)
    }
    pthread_sigmask(SIG_UNBLOCK, &signals, nil)
  }

  private static let handler: @convention(c) (Int32) -> Void = { number in
    var byte = UInt8(truncatingIfNeeded: number)
    write(writeEnd.load(ordering: .relaxed), &byte, 1)
  }

  private static let waiter: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
    guard let argument else { return nil }
    let target = Unmanaged<Target>.fromOpaque(argument).takeRetainedValue()
    var number: UInt8 = 0
    repeat {
      while read(target.readEnd, &number, 1) != 1 {}
    } while Int32(number) == SIGINT && endsParts.load(ordering: .relaxed)
      && stops.add(1, ordering: .relaxed).newValue == 1
    received.store(Int32(number), ordering: .relaxed)
    target.task.cancel()
    var end = pollfd(fd: target.readEnd, events: Int16(POLLIN), revents: 0)
    while true {
      let count = poll(&end, 1, endsParts.load(ordering: .relaxed) ? shortGrace : grace)
      if count == 0, patient.load(ordering: .relaxed) == 0 { break }
      if count > 0, read(target.readEnd, &number, 1) == 1 { break }
    }
    _exit(128 + Int32(number))
  }
}
