import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

/// Runs a built program; returns its code and what it said.
private func run(
  _ name: String, _ words: [String], environment: [String: String] = [:]
) throws -> (code: Int32, output: String, error: String) {
  let process = Process()
  process.executableURL = built(name)
  process.arguments = words
  process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
  let (output, error) = (Pipe(), Pipe())
  process.standardOutput = output
  process.standardError = error
  try process.run()
  let outputData = output.fileHandleForReading.readDataToEndOfFile()
  let errorData = error.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  return (
    process.terminationStatus, String(decoding: outputData, as: UTF8.self), String(decoding: errorData, as: UTF8.self)
  )
}

/// The programs stand where the tests do.
func built(_ name: String) -> URL {
  let test = CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? CommandLine.arguments[0]
  return URL(fileURLWithPath: test).deletingLastPathComponent().appendingPathComponent(name)
}

@Suite struct ToolTests {
  @Test func theVersionIsOneLine() throws {
    let answer = try run("peft-tool", ["--version"])
    #expect(answer.code == 0 && answer.output.hasPrefix("peft-tool ") && answer.output.hasSuffix("\n"))
  }

  @Test func failureIsCodeTwoAndOneLineOnStandardError() throws {
    let answer = try run("peft-tool", ["inspect", "/nonexistent"])
    #expect(answer.code == 2 && answer.output.isEmpty)
    #expect(answer.error.hasPrefix("peft-tool: /nonexistent: ") && answer.error.filter { $0 == "\n" }.count == 1)
  }

  /// A base large enough to be killed in the middle: 256 MB.
  private func largeBase(_ scratch: ScratchDirectory) throws -> (base: String, adapter: String) {
    try FileSystem.makeDirectory(scratch("base"))
    let items = (0..<64).map {
      SafetensorsLayout.Item(name: "model.layers.\($0).mlp.up_proj.weight", dtype: .bf16, shape: [1024, 2048])
    }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    try overwrite(scratch("base/config.json"), #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#)
    var config = PeftConfig()
    config.targetModules = .names(["up_proj"])
    config.initLoRAWeights = .bool(false)
    try overwrite(scratch("config.json"), config.fileText)
    #expect(try run("peft-tool", ["init", scratch("base"), scratch("config.json"), scratch("adapter")]).code == 0)
    return (scratch("base"), scratch("adapter"))
  }

  /// The weights are mapped, and their pages go with the file's end.
  @Test(arguments: ["cut", "emptied"])
  func aModelThatIsCutWhileItRunsIsAnError(how: String) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("model"))
    let chat = Fixtures.path("running/chat")
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
      try FileSystem.copy("\(chat)/\(name)", to: scratch("model/\(name)"))
    }
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["perplexity", scratch("model"), "-", "--window", "4"]
    let (input, output, error) = (Pipe(), Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = error
    try process.run()
    let weights = scratch("model/model.safetensors")
    // The list comes in pieces, the first of which Foundation takes for the whole.
    func isMapped() -> Bool {
      let maps = open("/proc/\(process.processIdentifier)/maps", O_RDONLY)
      defer { close(maps) }
      var (text, piece): ([UInt8], [UInt8]) = ([], [UInt8](repeating: 0, count: 4096))
      while case let count = read(maps, &piece, piece.count), count > 0 { text += piece[..<count] }
      return String(decoding: text, as: UTF8.self).contains(weights)
    }
    while kill(process.processIdentifier, 0) == 0 && !isMapped() { usleep(1000) }
    #expect(isMapped())
    // Past the header, in the middle of the weights; or all of it.
    #expect(truncate(weights, how == "cut" ? 8192 : 0) == 0)
    // The text comes after the cut, and is read after the weights were mapped.
    try input.fileHandleForWriting.write(
      contentsOf: Data(String(repeating: "The quick brown fox jumps. ", count: 20).utf8))
    try input.fileHandleForWriting.close()
    let said = String(decoding: error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationReason == .exit && process.terminationStatus == 2, "\(process.terminationStatus)")
    #expect(said.contains("model.safetensors") && said.contains("was cut"), "\(said)")
    #expect(output.fileHandleForReading.readDataToEndOfFile().isEmpty)
  }

  /// What was opened is read to the end, whatever has its name by then; what is gone from it is an error.
  @Test(arguments: [("cut", 2), ("replaced", 0), ("removed", 0)] as [(String, Int32)])
  func aBaseThatIsLostWhileItIsMergedIsMergedOrAnError(how: String, code: Int32) throws {
    let scratch = try ScratchDirectory()
    let (base, adapter) = try largeBase(scratch)
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["merge", "--quiet", base, adapter, scratch("out")]
    let error = Pipe()
    process.standardError = error
    try process.run()
    while process.isRunning, try !FileSystem.names(in: scratch.path).contains(where: { $0.contains("partial") }) {
      usleep(500)
    }
    let weights = "\(base)/model.safetensors"
    switch how {
    case "cut": #expect(truncate(weights, 1 << 20) == 0)
    case "replaced":
      try FileSystem.remove(weights)
      try overwrite(weights, "another")
    default: try FileSystem.remove(weights)
    }
    let said = String(decoding: error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationReason == .exit && process.terminationStatus == code, "\(said)")
    #expect(FileSystem.exists(scratch("out")) == (code == 0))
    if code == 2 { #expect(said.contains("model.safetensors") && said.contains("was cut"), "\(said)") }
  }

  @Test func aKilledMergeLeavesNothingAtTheOutputAndTheNextOneSucceeds() throws {
    let scratch = try ScratchDirectory()
    let (base, adapter) = try largeBase(scratch)
    func digests() throws -> [String] {
      try ["config.json", "model.safetensors"].map { try SHA256.digest(of: OpenFile.open(reading: "\(base)/\($0)")) }
    }
    let before = try digests()
    var generator = SeededGenerator(seed: 23)
    var killed = 0
    for _ in 0..<100 {
      let process = Process()
      process.executableURL = built("peft-tool")
      process.arguments = ["merge", "--quiet", base, adapter, scratch("out")]
      process.standardOutput = FileHandle.nullDevice
      try process.run()
      usleep(UInt32.random(in: 0..<150_000, using: &generator))
      kill(process.processIdentifier, SIGKILL)
      process.waitUntilExit()
      if process.terminationReason == .uncaughtSignal {
        killed += 1
        #expect(FileSystem.kind(scratch("out")) == nil)
      } else {
        try FileSystem.remove(scratch("out"))
      }
    }
    #expect(killed > 0)
    #expect(try digests() == before)
    #expect(try run("peft-tool", ["merge", base, adapter, scratch("out")]).code == 0)
    let left = try FileSystem.names(in: scratch.path).filter { $0.contains("partial") }
    #expect(left.isEmpty)
  }

  @Test func aKilledPartOfAMergeIsRunAgain() throws {
    let scratch = try ScratchDirectory()
    let (base, adapter) = try largeBase(scratch)
    #expect(try run("peft-tool", ["merge", base, adapter, scratch("whole")]).code == 0)
    let expected = try SHA256.digest(of: OpenFile.open(reading: scratch("whole/model.safetensors")))
    var generator = SeededGenerator(seed: 29)
    var killed = 0
    for count in [1, 3] {
      for number in 1...count {
        // Each is killed at some moments, and at last comes to its end.
        for attempt in 0..<3 {
          let process = Process()
          process.executableURL = built("peft-tool")
          process.arguments = ["merge", "--quiet", "--part", "\(number)/\(count)", base, adapter, scratch("out")]
          process.standardOutput = FileHandle.nullDevice
          try process.run()
          if attempt < 2 {
            usleep(UInt32.random(in: 0..<120_000, using: &generator))
            kill(process.processIdentifier, SIGKILL)
          }
          process.waitUntilExit()
          #expect(FileSystem.kind(scratch("out")) == nil)
          guard process.terminationReason == .uncaughtSignal else {
            #expect(process.terminationStatus == 0)
            break
          }
          killed += 1
          let early = try run("peft-tool", ["merge", "--finish", base, adapter, scratch("out")])
          #expect(early.code == 2 && !FileSystem.exists(scratch("out")), "\(early.error)")
        }
      }
      #expect(try run("peft-tool", ["merge", "--finish", base, adapter, scratch("out")]).code == 0)
      #expect(try SHA256.digest(of: OpenFile.open(reading: scratch("out/model.safetensors"))) == expected)
      #expect(try FileSystem.names(in: scratch.path).filter { $0.hasPrefix(".") } == [])
      try FileSystem.remove(scratch("out"))
    }
    #expect(killed > 0)
  }

  /// ENOSPC and EIO at every call that writes, one after the other.
  @Test(arguments: [ENOSPC, EIO], ["merge/llama-sharded", "merge/bert-sequence-classifier"])
  func aFailureOfAnyWriteLeavesNothingAndSaysSo(code: Int32, name: String) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path(name)
    let library = try failingCalls(scratch)
    let base = try Checkpoint(path: "\(root)/base").shards.map { try contents($0.path) }
    let words = ["merge", "--threads", "1", "\(root)/base", "\(root)/adapter", scratch("out")]
    let whole = try run(
      "peft-tool", words, environment: ["LD_PRELOAD": library, "FAULT_COUNT": scratch("count")])
    #expect(whole.code == 0, "\(whole.error)")
    let count = try #require(Int(FileSystem.text(scratch("count"))))
    #expect(count > 10)
    try FileSystem.remove(scratch("out"))
    for call in 1...count {
      let answer = try run(
        "peft-tool", words, environment: ["LD_PRELOAD": library, "FAULT_AT": "\(call)", "FAULT_CODE": "\(code)"])
      #expect(answer.code == 2 && answer.error.hasPrefix("peft-tool: "), "call \(call): \(answer.error)")
      #expect(answer.error.contains(String(cString: strerror(code))), "call \(call): \(answer.error)")
      #expect(try FileSystem.names(in: scratch.path) == ["count", "fault_injection.so"], "call \(call)")
    }
    #expect(try Checkpoint(path: "\(root)/base").shards.map { try contents($0.path) } == base)
  }

  @Test func aFailureWhileAnOutputIsReplacedKeepsTheOldOne() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    let library = try failingCalls(scratch)
    let words = ["merge", "--threads", "1", "--force", "\(root)/base", "\(root)/adapter", scratch("out")]
    func reset() throws {
      if FileSystem.kind(scratch("out")) != nil { try FileSystem.remove(scratch("out")) }
      try FileSystem.makeDirectory(scratch("out"))
      try overwrite(scratch("out/old"), "old")
    }
    try reset()
    let whole = try run("peft-tool", words, environment: ["LD_PRELOAD": library, "FAULT_COUNT": scratch("count")])
    #expect(whole.code == 0, "\(whole.error)")
    let count = try #require(Int(FileSystem.text(scratch("count"))))
    #expect(count > 5)
    try reset()
    for call in 1...count {
      let answer = try run(
        "peft-tool", words, environment: ["LD_PRELOAD": library, "FAULT_AT": "\(call)", "FAULT_CODE": "\(ENOSPC)"])
      #expect(answer.code == 2, "call \(call): \(answer.error)")
      #expect(try FileSystem.names(in: scratch("out")) == ["old"], "call \(call)")
      #expect(try FileSystem.names(in: scratch.path) == ["count", "fault_injection.so", "out"], "call \(call)")
    }
  }

  @Test func anInterruptedMergeCleansUp() throws {
    let scratch = try ScratchDirectory()
    let (base, adapter) = try largeBase(scratch)
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["merge", base, adapter, scratch("out")]
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    usleep(40_000)
    kill(process.processIdentifier, SIGTERM)
    process.waitUntilExit()
    let names = try FileSystem.names(in: scratch.path).filter { $0.contains("out") }
    #expect([0, 128 + SIGTERM].contains(process.terminationStatus))
    // It may have been done before the signal came; otherwise nothing may be left.
    #expect(process.terminationStatus == 0 ? names == ["out"] : names.isEmpty)
  }

  /// `perplexity` computes without looking for cancellation.
  @Test(arguments: [[SIGTERM], [SIGINT], [SIGINT, SIGTERM]])
  func aSignalEndsACommandThatIsBusy(signals: [Int32]) throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("text"), String(repeating: "The quick brown fox. ", count: 100_000))
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["perplexity", Fixtures.path("running/chat"), scratch("text")]
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    usleep(300_000)
    for signal in signals {
      kill(process.processIdentifier, signal)
      usleep(50_000)
    }
    process.waitUntilExit()
    #expect(process.terminationReason == .exit)
    #expect(process.terminationStatus == 128 + signals[signals.count - 1])
  }

  /// A terminal shows ^C where the cursor is, after a bar or nothing.
  @Test func controlCOnATerminalEndsWith130OnALineOfItsOwn() throws {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("text"), String(repeating: "The quick brown fox. ", count: 100_000))
    let terminal = try Terminal()
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = ["perplexity", Fixtures.path("running/chat"), scratch("text")]
    process.environment = ProcessInfo.processInfo.environment.merging(["TERM": "xterm"]) { $1 }
    process.standardOutput = FileHandle.nullDevice
    process.standardError = terminal.program
    try process.run()
    usleep(300_000)
    kill(process.processIdentifier, SIGINT)
    usleep(50_000)
    kill(process.processIdentifier, SIGINT)
    process.waitUntilExit()
    #expect(process.terminationStatus == 130)
    _ = fcntl(terminal.person.fileDescriptor, F_SETFL, O_NONBLOCK)
    let said = available(terminal.person.fileDescriptor)
    #expect(
      said.isEmpty || said.hasPrefix("\r\n") && said.hasSuffix("peft-tool: interrupted.\r\n"),
      "\(said.debugDescription)")

    let trained = try Terminal()
    let run = Process()
    run.executableURL = built("peft-tool")
    run.arguments = try training(scratch, "out").map { $0 == "60" ? "100000" : $0 }
    run.environment = process.environment
    run.standardOutput = FileHandle.nullDevice
    run.standardError = trained.program
    try run.run()
    _ = fcntl(trained.person.fileDescriptor, F_SETFL, O_NONBLOCK)
    var text = ""
    #expect(
      comes {
        text += available(trained.person.fileDescriptor)
        return text.contains("\u{1B}[K")
      })
    kill(run.processIdentifier, SIGINT)
    #expect(
      comes {
        text += available(trained.person.fileDescriptor)
        return !run.isRunning
      })
    text += available(trained.person.fileDescriptor)
    #expect(run.terminationStatus == 130 && text.contains("\r\npeft-tool: "), "\(text.suffix(300).debugDescription)")
  }

  /// A run of training whose steps take a while, and the words that begin it.
  private func training(_ scratch: ScratchDirectory, _ output: String) throws -> [String] {
    try trainingWords(scratch, output) + [
      "--max-steps", "60", "--per-device-train-batch-size", "2",
      "--save-steps", "1",
      "--save-total-limit", "2", "--train-sampling-strategy", "group_by_length",
    ]
  }

  @Test func aKilledRunGoesOnToTheBitsOfOneNeverStopped() throws {
    let scratch = try ScratchDirectory()
    let whole = try run("peft-tool", training(scratch, "whole"))
    #expect(whole.code == 0, "\(whole.error)")
    let expected = try contents(scratch("whole/adapter_model.safetensors"))
    var generator = SeededGenerator(seed: 31)
    var (killed, resumed) = (0, 0)
    for _ in 0..<6 {
      if FileSystem.kind(scratch("out")) != nil { try FileSystem.remove(scratch("out")) }
      // Each run is killed at some moments, and goes on from what is there, until one comes to its end.
      for attempt in 0..<20 {
        let hasCheckpoint =
          (try? FileSystem.names(in: scratch("out")))?.contains { $0.hasPrefix("checkpoint-") } == true
        let words = try training(scratch, "out") + (hasCheckpoint ? ["--resume-from-checkpoint", "last"] : ["--force"])
        resumed += hasCheckpoint ? 1 : 0
        let process = Process()
        process.executableURL = built("peft-tool")
        process.arguments = words + ["--quiet"]
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        if attempt < 4 {
          usleep(UInt32.random(in: 5_000..<400_000, using: &generator))
          kill(process.processIdentifier, SIGKILL)
        }
        process.waitUntilExit()
        if process.terminationReason == .exit {
          #expect(process.terminationStatus == 0)
          break
        }
        killed += 1
      }
      #expect(try contents(scratch("out/adapter_model.safetensors")) == expected)
      let left = try FileSystem.names(in: scratch("out")).filter { $0.hasPrefix(".") }
      #expect(left.isEmpty, "\(left)")
    }
    #expect(killed > 0 && resumed > 0)
  }

  @Test func anInterruptedRunSavesAndSaysHowToGoOn() throws {
    let scratch = try ScratchDirectory()
    let words = try training(scratch, "out").map { $0 == "60" ? "100000" : $0 } + ["--save-strategy", "no"]
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = words
    let error = Pipe()
    process.standardError = error
    try process.run()
    var text = ""
    while !text.contains("step 3/"), let part = try error.fileHandleForReading.read(upToCount: 4096) {
      text += String(decoding: part, as: UTF8.self)
    }
    kill(process.processIdentifier, SIGINT)
    text += String(decoding: error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationStatus == 130)
    #expect(
      text.contains("interrupted after step ") && text.contains("--resume-from-checkpoint last"), "\(text.suffix(400))")
    let names = try FileSystem.names(in: scratch("out"))
    #expect(names.count == 1 && names[0].hasPrefix("checkpoint-"), "\(names)")
  }

  @Test func aRunHasTheSameBitsForAnyNumberOfThreads() throws {
    let scratch = try ScratchDirectory()
    var found: [[UInt8]] = []
    for threads in ["1", "2", "3", "7"] {
      let answer = try run("peft-tool", training(scratch, threads), environment: ["PEFT_THREADS": threads])
      #expect(answer.code == 0, "\(answer.error)")
      found.append(try contents(scratch("\(threads)/adapter_model.safetensors")))
    }
    #expect(found.allSatisfy { $0 == found[0] })
  }

  @Test func theReadmesExampleRuns() throws {
    let readme = try FileSystem.text("\(Fixtures.root)/README.md")
    let source = try FileSystem.text("\(Fixtures.root)/Tests/ReadmeExample/main.swift")
    #expect(readme.contains("```swift\n\(source)```"))
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    let answer = try run("readme-example", ["\(root)/base", "\(root)/adapter", scratch("out")])
    #expect(answer.code == 0, "\(answer.error)")
    #expect(answer.output == "r = 4, 4 modules merged into 21 tensors\n")
    #expect(FileSystem.kind(scratch("out/model.safetensors")) == .file)
  }
}
