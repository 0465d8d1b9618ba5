internal import Glibc

/// SIGINT and SIGTERM as a cancelled task, so that work in progress can remove what it has written.
public enum Interruption {
  private final class Target: Sendable {
    let task: Task<Int32, Never>
    init(_ task: Task<Int32, Never>) { self.task = task }
  }

  private static func signals() -> sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, SIGINT)
    sigaddset(&set, SIGTERM)
    return set
  }

  /// Keeps the signals from ending the process. To be called before any other thread exists.
  public static func block() {
    var set = signals()
    pthread_sigmask(SIG_BLOCK, &set, nil)
  }

  /// Cancels the task on the first signal; ends the process on the second.
  public static func cancel(_ task: Task<Int32, Never>) {
    var thread = pthread_t()
    pthread_create(&thread, nil, waiter, Unmanaged.passRetained(Target(task)).toOpaque())
  }

  private static let waiter: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
    guard let argument else { return nil }
    let target = Unmanaged<Target>.fromOpaque(argument).takeRetainedValue()
    var set = signals()
    var received: Int32 = 0
    sigwait(&set, &received)
    target.task.cancel()
    sigwait(&set, &received)
    _exit(128 + received)
  }
}
