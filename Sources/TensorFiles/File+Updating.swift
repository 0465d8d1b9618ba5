internal import Glibc

extension OpenFile {
  /// Opens a regular file to go on writing it, or makes it. Links are not followed. Throws `.system`, `.notAFile`.
  package static func open(updating path: String) throws(TensorFileError) -> OpenFile {
    try open(path, O_RDWR, 0o666)
  }

  /// Opens a regular file of which other programs write other bytes, or makes it. Links are not followed. Throws `.system`, `.notAFile`.
  ///
  /// For writing only: a client of NFS that may read too sends whole pages, and with them old bytes that are not its own.
  /// - Parameter permissions: what `FilePermissions.restrict` is to leave in the end; until then the owner may write.
  package static func open(sharing path: String, permissions: FilePermissions) throws(TensorFileError) -> OpenFile {
    try open(path, O_WRONLY, permissions.whileWritten.mode)
  }

  private static func open(_ path: String, _ access: Int32, _ mode: mode_t) throws(TensorFileError) -> OpenFile {
    let descriptor = Glibc.open(path, access | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode)
    guard descriptor >= 0 else { throw .system(path: path, operation: "create", code: errno) }
    let file = OpenFile(path: path, descriptor: descriptor)
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .system(path: path, operation: "examine", code: errno) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .notAFile(path: path) }
    return file
  }

  /// Cuts the file. Throws `.system`.
  package func truncate(to byteCount: Int) throws(TensorFileError) {
    guard ftruncate(descriptor, off_t(byteCount)) == 0 else {
      throw .system(path: path, operation: "resize", code: errno)
    }
  }
}

extension FileSystem {
  /// Gives a file or directory another name, which it takes from whatever file has it. Throws `.system`.
  package static func move(_ source: String, to target: String) throws(TensorFileError) {
    guard rename(source, target) == 0 else { throw .system(path: target, operation: "create", code: errno) }
  }
}

/// A lock that programs hold by a file of a known name, until the value goes.
///
/// Source: filelock's `UnixFileLock`, which huggingface_hub uses: flock(2) on the whole file.
package final class FileLock: Sendable {
  private let descriptor: Int32

  /// Nil if another holds the lock. Throws `.system`.
  package init?(_ path: String) throws(TensorFileError) {
    while true {
      let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o664)
      guard descriptor >= 0 else { throw .system(path: path, operation: "create", code: errno) }
      guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
        let code = errno
        close(descriptor)
        if code == EWOULDBLOCK { return nil }
        throw .system(path: path, operation: "lock", code: code)
      }
      var (held, named) = (stat(), stat())
      // The one who held it before may have removed it: then the lock is on no file that others see.
      if fstat(descriptor, &held) == 0, stat(path, &named) == 0, held.st_ino == named.st_ino,
        held.st_dev == named.st_dev
      {
        self.descriptor = descriptor
        return
      }
      close(descriptor)
    }
  }

  deinit { close(descriptor) }
}
