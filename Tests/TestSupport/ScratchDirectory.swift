internal import TensorFiles

/// A directory of its own for one test, removed with the value.
public final class ScratchDirectory: Sendable {
  public let path: String

  public init() throws {
    let root = FileSystem.kind("/dev/shm") == .directory ? "/dev/shm" : "/tmp"
    path = "\(root)/peft-test-\(UInt64.random(in: 0...UInt64.max))"
    try FileSystem.makeDirectory(path)
  }

  deinit { try? FileSystem.remove(path) }

  /// The path of a name inside.
  public func callAsFunction(_ name: String) -> String { FileSystem.join(path, name) }
}
