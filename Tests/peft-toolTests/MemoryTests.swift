import Foundation
import TensorFiles
import TestSupport
import Testing

/// What the tool keeps in memory of files that ask for much, seen from outside.
@Suite(.serialized) struct MemoryTests {
  /// Runs the tool to its end. Returns its code, what it said on standard error, and the most memory that it held.
  private func run(_ words: [String]) throws -> (code: Int32, error: String, peakBytes: Int) {
    let scratch = try ScratchDirectory()
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = words
    process.standardOutput = FileHandle.nullDevice
    try overwrite(scratch("error"), "")
    process.standardError = FileHandle(forWritingAtPath: scratch("error"))
    try process.run()
    var peak = 0
    // Of a process that is gone nothing is told: the last look is a moment before its end.
    while process.isRunning {
      let status = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/status", encoding: .utf8)) ?? ""
      let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") } ?? ""
      peak = max(peak, line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0)
      usleep(2000)
    }
    process.waitUntilExit()
    #expect(process.terminationReason == .exit)
    return (process.terminationStatus, try FileSystem.text(scratch("error")), peak * 1024)
  }

  private func check(_ words: [String], size: Int, _ comment: Comment) throws {
    let answer = try run(words)
    #expect(answer.code == 2, comment)
    #expect(answer.error.hasPrefix("peft-tool: "), comment)
    #expect(answer.peakBytes > 0 && answer.peakBytes < size + 1 << 30, "\(comment): \(answer.peakBytes) bytes")
  }

  @Test(arguments: ["entries", "extents", "metadata"])
  func aHeaderOfTheGreatestLengthTakesAGigabyteBesideItAtMost(of what: String) throws {
    let scratch = try ScratchDirectory()
    let (before, piece, after) =
      switch what {
      case "entries": (#"{"w": 0"#, #", "w": {"dtype": "U8", "shape": [], "data_offsets": [0, 0]}"#, "}")
      case "extents": (#"{"w": {"dtype": "U8", "data_offsets": [0, 0], "shape": [0"#, ",1", "]}}")
      default: (#"{"__metadata__": {"a": ""#, "aaaaaaaa", #""}, "w": {"dtype": "U8", "shape": 1}}"#)
      }
    let room = SafetensorsFile.headerLimit - before.utf8.count - after.utf8.count
    var header = [UInt8](before.utf8)
    let bytes = [UInt8](String(repeating: piece, count: 1000).utf8)
    while header.count + bytes.count < room { header += bytes }
    header += Array(after.utf8)
    header += [UInt8](repeating: 0x20, count: SafetensorsFile.headerLimit - header.count)
    let length = (0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) }
    let path = scratch("model.safetensors")
    try overwrite(path, length + header)
    try check(["convert", path, scratch("out")], size: header.count, "\(what)")
  }

  @Test func aPickleBombTakesAGigabyteAtMost() throws {
    let scratch = try ScratchDirectory()
    let bombs = try #require(JSONValue(contentsOf: Fixtures.path("torch/bombs/expected.json")).members)
    for bomb in bombs where bomb.value != .null {
      let path = Fixtures.path("torch/bombs/\(bomb.key).bin")
      try check(["convert", path, scratch("out.safetensors")], size: 0, "\(bomb.key)")
    }
  }

  @Test(arguments: [
    "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}",
    "{{ ('a\\n' * 100000) | indent(1000000) }}",
  ])
  func aTemplateBombTakesAGigabyteAtMost(source: String) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("model"))
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
      try FileSystem.copy(Fixtures.path("running/chat/\(name)"), to: scratch("model/\(name)"))
    }
    try overwrite(scratch("model/chat_template.jinja"), source)
    try check(["generate", scratch("model"), "--chat", "--prompt", "x", "-n", "1"], size: 0, "\(source)")
  }
}
