import Foundation
import PEFT
import TestSupport
import Testing

/// Runs a script of bash that ends at its first failure; the code and both outputs as they came.
func shell(
  _ script: String, in directory: String, environment: [String: String]
) throws -> (code: Int32, text: String) {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/bin/bash")
  process.arguments = ["-euo", "pipefail", "-c", script]
  process.currentDirectoryURL = URL(fileURLWithPath: directory)
  process.environment = environment
  let output = Pipe()
  process.standardInput = FileHandle.nullDevice
  process.standardOutput = output
  process.standardError = output
  try process.run()
  let data = output.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  return (process.terminationStatus, String(decoding: data, as: UTF8.self))
}

/// Builds a library for LD_PRELOAD whose FAULT_AT-th call of those that write fails with FAULT_CODE, or which leaves their number in the
/// file FAULT_COUNT.
func failingCalls(_ scratch: ScratchDirectory) throws -> String {
  let library = scratch("fault_injection.so")
  let answer = try shell(
    "clang -shared -fPIC -O1 -o \(library) fault_injection.c", in: "\(Fixtures.root)/Tests/FaultInjection",
    environment: ProcessInfo.processInfo.environment)
  try #require(answer.code == 0, "\(answer.text)")
  return library
}

/// Words that train a LoRA with dropout on a tiny model, before the settings that a test adds.
func trainingWords(_ scratch: ScratchDirectory, _ output: String) throws -> [String] {
  var config = PeftConfig()
  config.targetModules = .names(["q_proj", "v_proj"])
  config.taskType = "CAUSAL_LM"
  config.dropout = 0.1
  try overwrite(scratch("config.json"), config.fileText)
  return [
    "train", Fixtures.path("training/bases/llama"), scratch("config.json"), Fixtures.path("training/records.jsonl"),
    scratch(output), "--learning-rate", "0.01",
  ]
}
