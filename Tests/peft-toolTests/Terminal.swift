import Foundation

/// A terminal of a test's own, for programs that ask whether they talk to one.
struct Terminal {
  /// The end that a person would sit at, and the program's.
  let person: FileHandle
  let program: FileHandle

  init() throws {
    // TIOCSPTLCK and TIOCGPTN, which Swift's Glibc lacks with the functions around them.
    let person = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
    var (isLocked, number) = (Int32(0), UInt32(0))
    guard person >= 0, ioctl(person, 0x4004_5431, &isLocked) == 0, ioctl(person, 0x8004_5430, &number) == 0 else {
      throw POSIXError(.ENOTTY)
    }
    let program = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY | O_CLOEXEC)
    guard program >= 0 else { throw POSIXError(.ENOTTY) }
    self.person = FileHandle(fileDescriptor: person, closeOnDealloc: true)
    self.program = FileHandle(fileDescriptor: program, closeOnDealloc: true)
  }
}

/// What a descriptor has to read now, without waiting; it must be one that does not.
func available(_ descriptor: Int32) -> String {
  var text = ""
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = Glibc.read(descriptor, &buffer, buffer.count)
    guard count > 0 else { return text }
    text += String(decoding: buffer[..<count], as: UTF8.self)
  }
}
