import Foundation
import PEFT
import TensorFiles
import TestSupport
import Testing

#if MPI
  private let isBuiltWithMPI = true
#else
  private let isBuiltWithMPI = false
#endif

/// The built program under mpirun, several at a time.
@Suite(.enabled(if: isBuiltWithMPI, "built without MPI"), .serialized) struct MPITests {
  /// An mpirun that was started; its ranks are its children.
  private final class Job {
    let process = Process()
    private let (output, error) = (Pipe(), Pipe())

    init(_ count: Int, _ words: [String]) throws {
      process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
      process.arguments =
        [
          "mpirun", "--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", "\(count)",
          built("peft-tool").path,
        ]
        + words
      // One thread each; no network beside the machine's own memory.
      process.environment = ProcessInfo.processInfo.environment.merging([
        "PEFT_THREADS": "1", "OMPI_MCA_btl": "self,vader", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        "OMPI_MCA_pml": "ob1",
      ]) { $1 }
      process.standardOutput = output
      process.standardError = error
      try process.run()
    }

    /// Reads what is said until it contains `text`.
    func wait(for text: String) throws -> String {
      var said = ""
      while !said.contains(text), let part = try error.fileHandleForReading.read(upToCount: 4096), !part.isEmpty {
        said += String(decoding: part, as: UTF8.self)
      }
      return said
    }

    /// The processes of the ranks, by rank.
    var ranks: [Int: Int32] {
      var found: [Int: Int32] = [:]
      for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
        guard let number = Int32(name),
          let status = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
          let parent = status.split(separator: ")").last?.split(separator: " ").dropFirst().first,
          Int32(parent) == process.processIdentifier,
          let environment = FileManager.default.contents(atPath: "/proc/\(name)/environ"),
          let rank = String(decoding: environment, as: UTF8.self).split(separator: "\0")
            .first(where: { $0.hasPrefix("OMPI_COMM_WORLD_RANK=") })?.split(separator: "=").last
        else { continue }
        found[Int(rank) ?? -1] = number
      }
      return found
    }

    func end() -> (code: Int32, output: String, error: String) {
      // mpirun 4.1 can come to a standstill when a rank is gone before it has reported.
      let number = process.processIdentifier
      DispatchQueue.global().asyncAfter(deadline: .now() + 60) { [process] in
        if process.isRunning { kill(number, SIGKILL) }
      }
      let errorData = error.fileHandleForReading.readDataToEndOfFile()
      let outputData = output.fileHandleForReading.readDataToEndOfFile()
      process.waitUntilExit()
      return (
        process.terminationStatus, String(decoding: outputData, as: UTF8.self),
        String(decoding: errorData, as: UTF8.self)
      )
    }
  }

  private func alone(_ words: [String]) throws -> (code: Int32, output: String) {
    let process = Process()
    process.executableURL = built("peft-tool")
    process.arguments = words
    let output = Pipe()
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  private func files(_ directory: String) throws -> [String: [UInt8]] {
    var found: [String: [UInt8]] = [:]
    for name in try FileSystem.names(in: directory) { found[name] = try contents(FileSystem.join(directory, name)) }
    return found
  }

  @Test(arguments: ["llama-f32-qv", "llama-sharded", "llama-dora"], [2, 4])
  func ranksMergeToTheBytesOfOne(name: String, count: Int) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/\(name)")
    let words = ["merge", "\(root)/base", "\(root)/adapter"]
    #expect(try alone(words + [scratch("whole")]).code == 0)
    let answer = try Job(count, words + [scratch("out")]).end()
    #expect(answer.code == 0, "\(answer)")
    #expect(try files(scratch("out")) == files(scratch("whole")))
    #expect(try FileSystem.names(in: scratch.path) == ["out", "whole"])
    // One speaks for all.
    #expect(answer.output.split(separator: "\n").count { $0.hasPrefix("wrote ") } == 1, "\(answer.output)")
  }

  @Test func whatFailsOnAllRanksIsSaidOnceAndLeavesNothing() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    for words in [
      ["merge", "\(root)/base", scratch("none"), scratch("out")], ["merge", "\(root)/base"],
      ["merge", "\(root)/base", Fixtures.path("merge/gpt2-conv1d/adapter"), scratch("out")],
      ["merge", "--part", "1/2", "\(root)/base", "\(root)/adapter", scratch("out")],
      ["inspect", "\(root)/adapter"],
    ] {
      let answer = try Job(2, words).end()
      #expect(answer.code == 2, "\(answer)")
      #expect(answer.error.split(separator: "\n").count { $0.hasPrefix("peft-tool: ") } == 1, "\(answer.error)")
      #expect(try FileSystem.names(in: scratch.path) == [])
    }
  }

  /// Words of a run whose steps take a while. `batches` is of each rank.
  private func training(_ scratch: ScratchDirectory, _ output: String, batches: Int, steps: Int = 8) throws -> [String]
  {
    try trainingWords(scratch, output) + [
      "--max-steps", "\(steps)", "--per-device-train-batch-size", "1",
      "--gradient-accumulation-steps", "\(batches)", "--eval-data", Fixtures.path("training/records.jsonl"),
      "--eval-strategy", "steps", "--eval-steps", "4", "--save-steps", "2", "--logging-steps", "1",
      "--log", scratch("\(output).jsonl"),
    ]
  }

  @Test(arguments: [2, 4]) func ranksTrainToTheBitsOfOne(count: Int) throws {
    let scratch = try ScratchDirectory()
    #expect(try alone(training(scratch, "whole", batches: 2 * count)).code == 0)
    let answer = try Job(count, training(scratch, "out", batches: 2)).end()
    #expect(answer.code == 0, "\(answer)")
    for name in [
      "adapter_model.safetensors", "checkpoint-8/training_state.safetensors", "checkpoint-8/training_state.json",
    ] {
      #expect(try contents(scratch("out/\(name)")) == contents(scratch("whole/\(name)")), "\(name)")
    }
    let figures = { (name: String) in
      try FileSystem.text(scratch("\(name).jsonl")).split(separator: "\n").map { line -> [String?] in
        let json = JSONValue(parsing: String(line))
        return ["step", "loss", "grad_norm", "learning_rate", "eval_loss"].map { json?[$0]?.compactText }
      }
    }
    #expect(try figures("out") == figures("whole"))
    #expect(answer.output.split(separator: "\n").count { $0.hasPrefix("wrote ") } == 1, "\(answer.output)")
  }

  /// Whichever rank is killed, mpirun ends the others, and the last checkpoint is good to go on from.
  @Test(arguments: [(2, 0), (2, 1), (4, 3)]) func aKilledRankEndsTheRunAndItsCheckpointsAreGood(count: Int, rank: Int)
    throws
  {
    let scratch = try ScratchDirectory()
    let steps = 4000
    let job = try Job(count, training(scratch, "out", batches: 1, steps: steps) + ["--save-total-limit", "3"])
    _ = try job.wait(for: "step 9/")
    let process = try #require(job.ranks[rank])
    #expect(kill(process, SIGKILL) == 0)
    let answer = job.end()
    #expect(answer.code != 0)
    #expect(!FileSystem.exists(scratch("out/adapter_model.safetensors")))
    let newest = try #require(
      FileSystem.names(in: scratch("out")).filter { $0.hasPrefix("checkpoint-") }
        .compactMap { Int($0.dropFirst("checkpoint-".count)) }.max())
    #expect(newest >= 8 && newest < steps)
    // What was reached is what one program reaches, and one goes on from it.
    let state = try contents(scratch("out/checkpoint-\(newest)/training_state.safetensors"))
    try FileSystem.remove(scratch("out.jsonl"))
    let first = try FileSystem.names(in: scratch("out")).filter {
      $0.hasPrefix("checkpoint-") && $0 != "checkpoint-\(newest)"
    }
    let before = try #require(first.compactMap { Int($0.dropFirst("checkpoint-".count)) }.max())
    let again = try Process.run(
      built("peft-tool"),
      arguments: training(scratch, "out", batches: count, steps: steps) + [
        "--save-total-limit", "3", "--quiet", "--resume-from-checkpoint", scratch("out/checkpoint-\(before)"),
      ])
    try FileSystem.remove(scratch("out/checkpoint-\(newest)"))
    while FileSystem.kind(scratch("out/checkpoint-\(newest)")) == nil, again.isRunning { usleep(1000) }
    #expect(try contents(scratch("out/checkpoint-\(newest)/training_state.safetensors")) == state)
    kill(again.processIdentifier, SIGKILL)
    again.waitUntilExit()
    // Ranks go on as well.
    let more = try Job(
      count,
      training(scratch, "out", batches: 1, steps: steps) + [
        "--save-total-limit", "3", "--resume-from-checkpoint", "last",
      ])
    #expect(try more.wait(for: "step \(newest + 3)/").contains("going on from "))
    for process in more.ranks.values { kill(process, SIGKILL) }
    _ = more.end()
  }

  @Test func ranksThatAreInterruptedSaveAndStop() throws {
    let scratch = try ScratchDirectory()
    let job = try Job(2, training(scratch, "out", batches: 1, steps: 4000) + ["--save-strategy", "no"])
    _ = try job.wait(for: "step 5/")
    // To one rank alone: all stop after the same step.
    kill(try #require(job.ranks[1]), SIGINT)
    let answer = job.end()
    #expect(answer.error.contains("interrupted after step "), "\(answer.error)")
    let names = try FileSystem.names(in: scratch("out"))
    #expect(names.count == 1 && names[0].hasPrefix("checkpoint-"), "\(names)")
  }

  /// A base whose merge takes a while: 64 MB.
  private func largeBase(_ scratch: ScratchDirectory) throws -> [String] {
    try FileSystem.makeDirectory(scratch("base"))
    let items = (0..<16).map {
      SafetensorsLayout.Item(name: "model.layers.\($0).mlp.up_proj.weight", dtype: .bf16, shape: [1024, 2048])
    }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    try overwrite(scratch("base/config.json"), #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#)
    var config = PeftConfig()
    config.targetModules = .names(["up_proj"])
    config.initLoRAWeights = .bool(false)
    try overwrite(scratch("config.json"), config.fileText)
    #expect(try alone(["init", scratch("base"), scratch("config.json"), scratch("adapter")]).code == 0)
    return ["merge", scratch("base"), scratch("adapter")]
  }

  @Test func aKilledRankOfAMergeLeavesNothingAtTheOutputAndTheNextOneSucceeds() throws {
    let scratch = try ScratchDirectory()
    let words = try largeBase(scratch)
    #expect(try alone(words + [scratch("whole")]).code == 0)
    var killed = 0
    for rank in 0..<4 {
      let manifest = scratch(".out.parts/manifest.json")
      if FileSystem.exists(scratch(".out.parts")) { try FileSystem.remove(scratch(".out.parts")) }
      let job = try Job(4, words + [scratch("out")])
      // All ranks are at work when the first has written what the merge is of.
      var ranks: [Int: Int32] = [:]
      while job.process.isRunning, ranks.count < 4 || !FileSystem.exists(manifest) {
        if ranks.count < 4 { ranks = job.ranks }
        usleep(200)
      }
      if let process = ranks[rank] { kill(process, SIGKILL) }
      if job.end().code == 0 {
        try FileSystem.remove(scratch("out"))
      } else {
        killed += 1
        #expect(!FileSystem.exists(scratch("out")))
      }
    }
    #expect(killed > 0)
    let answer = try Job(4, words + [scratch("out")]).end()
    #expect(answer.code == 0, "\(answer.error)")
    #expect(try files(scratch("out")) == files(scratch("whole")))
    #expect(try FileSystem.names(in: scratch.path) == ["adapter", "base", "config.json", "out", "whole"])
  }
}
