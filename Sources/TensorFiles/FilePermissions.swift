internal import Glibc

/// Who may read, write and run a file: what is written of a source is as private as the source, as with `cp`.
public struct FilePermissions: Sendable, Hashable {
  let mode: mode_t

  /// Reading and writing for everybody whom the umask lets.
  public static let open = FilePermissions(mode: 0o666)

  /// Those that all of some files have; `open` if none of them is there.
  public init(of paths: [String]) {
    let modes = paths.compactMap { FileSystem.mode($0) }
    mode = modes.isEmpty ? Self.open.mode : modes.reduce(0o777, &) & 0o777
  }

  private init(mode: mode_t) { self.mode = mode }

  /// The same, and the owner may write: for a file that is opened again before it is whole.
  var whileWritten: FilePermissions { FilePermissions(mode: mode | 0o200) }

  /// Takes from a file what these do not give. Throws `.system`.
  package func restrict(_ path: String) throws(TensorFileError) {
    guard let now = FileSystem.mode(path), chmod(path, now & mode) != 0 else { return }
    throw .system(path: path, operation: "change the permissions of", code: errno)
  }
}

extension FileSystem {
  /// The bits of a file's mode, links followed; nil if nothing is there.
  static func mode(_ path: String) -> mode_t? {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & 0o7777 : nil
  }
}
