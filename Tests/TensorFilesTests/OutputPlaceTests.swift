import Glibc
import TensorFiles
import TestSupport
import Testing

/// What can stand or appear where an output is to be, and what a model's directory can hold.
@Suite struct OutputPlaceTests {
  /// An output of one file.
  private func begin(_ target: String, replacing: Bool = false) throws -> OutputDirectory {
    let output = try OutputDirectory(target: target, replacing: replacing, inputs: [])
    try OpenFile.create(output.path("new")).write("new")
    return output
  }

  private func mode(_ path: String) -> mode_t {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode & 0o7777 : 0
  }

  @Test(arguments: [true, false])
  func whatAppearsAtTheOutputDuringAMergeIsKept(isThere: Bool) throws {
    let scratch = try ScratchDirectory()
    if isThere { try FileSystem.makeDirectory(scratch("out")) }
    let output = try begin(scratch("out"))
    if !isThere { try FileSystem.makeDirectory(scratch("out")) }
    try overwrite(scratch("out/precious"), "mine")
    let error = #expect(throws: TensorFileError.self) { try output.commit(durable: false) }
    #expect(error.map(caseName) == "outputExists")
    output.discard()
    #expect(try FileSystem.names(in: scratch.path) == ["out"])
    #expect(try FileSystem.names(in: scratch("out")) == ["precious"])
    #expect(try FileSystem.text(scratch("out/precious")) == "mine")
  }

  @Test(arguments: [true, false])
  func aFileThatAppearsAtTheOutputIsKept(replacing: Bool) throws {
    let scratch = try ScratchDirectory()
    let output = try begin(scratch("out"), replacing: replacing)
    try overwrite(scratch("out"), "mine")
    let error = #expect(throws: TensorFileError.self) { try output.commit(durable: false) }
    #expect(error.map(caseName) == "outputNotDirectory")
    output.discard()
    #expect(try FileSystem.names(in: scratch.path) == ["out"] && FileSystem.text(scratch("out")) == "mine")
  }

  @Test func anOutputThatAppearsWhileReplacingIsReplaced() throws {
    let scratch = try ScratchDirectory()
    let output = try begin(scratch("out"), replacing: true)
    try FileSystem.makeDirectory(scratch("out"))
    try overwrite(scratch("out/old"), "old")
    try output.commit(durable: true)
    #expect(try FileSystem.names(in: scratch("out")) == ["new"] && FileSystem.names(in: scratch.path) == ["out"])
  }

  @Test func ofTwoMergesToOnePlaceTheFirstStays() throws {
    let scratch = try ScratchDirectory()
    let (one, other) = (try begin(scratch("out")), try begin(scratch("out")))
    try OpenFile.create(one.path("first")).write("first")
    try one.commit(durable: false)
    #expect(throws: TensorFileError.self) { try other.commit(durable: false) }
    other.discard()
    #expect(try FileSystem.names(in: scratch("out")) == ["first", "new"])
  }

  @Test(arguments: [true, false])
  func aLinkToADirectoryStaysALink(isEmpty: Bool) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectories(scratch("disk/real"))
    if !isEmpty { try overwrite(scratch("disk/real/old"), "old") }
    #expect(symlink("disk/real", scratch("out")) == 0)
    let output = try begin(scratch("out"), replacing: !isEmpty)
    // Beside the real directory: a rename does not cross file systems.
    #expect(FileSystem.parentDirectory(output.workPath) == FileSystem.canonicalPath(scratch("disk")))
    try output.commit(durable: false)
    var status = stat()
    #expect(lstat(scratch("out"), &status) == 0 && status.st_mode & S_IFMT == S_IFLNK)
    #expect(try FileSystem.names(in: scratch("disk/real")) == ["new"])
    #expect(try FileSystem.names(in: scratch("disk")) == ["real"])
  }

  @Test func aLinkThatLeadsNowhereIsRefusedBeforeAnythingIsWritten() throws {
    let scratch = try ScratchDirectory()
    #expect(symlink("nowhere", scratch("out")) == 0)
    let error = #expect(throws: TensorFileError.self) { try begin(scratch("out")) }
    #expect(error.map(caseName) == "outputNotDirectory")
    #expect(try FileSystem.names(in: scratch.path) == ["out"])
  }

  @Test(arguments: [0o700, 0o750, 0o2775, 0o1777] as [mode_t])
  func theDirectoryThatIsReplacedGivesItsMode(mode expected: mode_t) throws {
    let scratch = try ScratchDirectory()
    for isEmpty in [true, false] {
      let out = scratch("out-\(isEmpty)")
      try FileSystem.makeDirectory(out)
      if !isEmpty { try overwrite("\(out)/old", "old") }
      #expect(chmod(out, expected) == 0)
      let output = try begin(out, replacing: !isEmpty)
      // Nobody may look in who may not look into the old one.
      #expect(mode(output.workPath) & ~expected & 0o077 == 0)
      try output.commit(durable: false)
      #expect(mode(out) == expected)
    }
  }

  /// /proc is another file system wherever there is one, and nobody can rename it.
  @Test func aMountPointIsRefusedBeforeAnythingIsWritten() {
    let error = #expect(throws: TensorFileError.self) {
      try OutputDirectory.check(target: "/proc", replacing: true, inputs: [])
    }
    #expect(error.map(caseName) == "outputIsMountPoint")
  }

  @Test(.enabled(if: geteuid() != 0, "root may write anywhere"))
  func aPlaceThatCannotBeWrittenIsRefusedAtOnce() throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("closed"))
    chmod(scratch("closed"), 0o500)
    defer { chmod(scratch("closed"), 0o700) }
    let error = #expect(throws: TensorFileError.self) {
      try OutputDirectory.check(target: scratch("closed/a/b"), replacing: false, inputs: [])
    }
    #expect(error.map(caseName) == "system")
  }

  /// A name that is not UTF-8.
  private func makeOddName(in directory: String) {
    let path = Array(directory.utf8) + Array("/x".utf8) + [0xE9, 0]
    close(open(path.map { CChar(bitPattern: $0) }, O_CREAT | O_WRONLY, 0o600))
  }

  @Test func aNameThatIsNotUTF8IsRefusedAndCanBeRemoved() throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectories(scratch("out/sub"))
    makeOddName(in: scratch("out/sub"))
    let error = #expect(throws: TensorFileError.self) { try FileSystem.names(in: scratch("out/sub")) }
    #expect(error == .nameNotUTF8(directory: scratch("out/sub"), name: [0x78, 0xE9]))
    #expect(error?.description.contains(#"'x\xe9'"#) == true)
    // It is something in the output all the same, and goes with it.
    makeOddName(in: scratch("out"))
    #expect(throws: TensorFileError.self) { try begin(scratch("out")) }
    try begin(scratch("out"), replacing: true).commit(durable: false)
    #expect(try FileSystem.names(in: scratch("out")) == ["new"] && FileSystem.names(in: scratch.path) == ["out"])
  }

  @Test func aPathIsTakenApartByItsBytes() {
    // A combining mark joins the slash before it in what Swift calls a character.
    #expect(FileSystem.lastComponent("a/\u{301}b") == "\u{301}b")
    #expect(FileSystem.parentDirectory("a/\u{301}b/") == "a")
    #expect(FileSystem.parentDirectory("/\u{301}b") == "/" && FileSystem.parentDirectory("b") == ".")
  }

  @Test func aModelsFileStandsInItsDirectoryOrInItsCache() throws {
    let scratch = try ScratchDirectory()
    let model = scratch("cache/models--o--m/snapshots/c")
    for directory in [
      "\(model)/sub", scratch("cache/models--o--m/blobs"), scratch("cache/models--o--x/blobs"),
      scratch("cache/blobs/ab"),
    ] { try FileSystem.makeDirectories(directory) }
    for name in ["models--o--m/blobs/1", "models--o--x/blobs/1", "blobs/ab/1", "models--o--m/secret"] {
      try overwrite(scratch("cache/\(name)"), "x")
    }
    try overwrite("\(model)/plain", "x")
    #expect(symlink("../../blobs/ab/1", scratch("cache/models--o--m/blobs/2")) == 0)
    func outcome(_ target: String, at name: String = "link", in directory: String? = nil) throws -> String {
      let directory = directory ?? model
      try? FileSystem.remove("\(directory)/\(name)")
      #expect(symlink(target, "\(directory)/\(name)") == 0)
      do {
        return try ModelFiles.path(name, in: directory) == nil ? "nothing" : "file"
      } catch { return caseName(error) }
    }
    #expect(try outcome("plain") == "file" && outcome("sub/../plain") == "file")
    #expect(try outcome("../../blobs/1") == "file")
    #expect(try outcome("../../../blobs/1", in: "\(model)/sub") == "file")
    #expect(try outcome("../../../models--o--x/blobs/1") == "linkOutside")
    #expect(try outcome("../../secret") == "linkOutside" && outcome("/etc/passwd") == "linkOutside")
    #expect(try outcome("../../blobs") == "linkOutside" && outcome("/dev/null") == "linkOutside")
    #expect(try outcome("nowhere") == "nothing" && outcome("link") == "nothing" && outcome(".") == "nothing")
    // The store that all repositories of a cache share, which huggingface_hub marks.
    #expect(try outcome("../../blobs/2") == "linkOutside")
    try overwrite(scratch("cache/blobs/.huggingface-shared-blobs"), "1\n")
    #expect(try outcome("../../blobs/2") == "file")
    // The same name outside of a snapshot means nothing.
    #expect(try outcome("../models--o--m/blobs/1", in: scratch("cache/blobs")) == "linkOutside")
  }
}
