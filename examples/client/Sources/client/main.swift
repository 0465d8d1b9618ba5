import PEFT
import TensorFiles

// client BASE ADAPTER OUT: looks at an adapter, merges it, and checks the merge.
let paths = Array(CommandLine.arguments.dropFirst())
guard paths.count == 3 else { fatalError("usage: client BASE ADAPTER OUT") }

let summary = try AdapterSummary(directory: paths[1])
print("\(summary.config.peftType.rawValue), r = \(summary.config.rank), \(summary.parameterCount) parameters")

let plan = try MergePlan(base: paths[0], adapter: paths[1])
try await Merger(plan).run(to: paths[2])
print("\(plan.mergedCount) modules merged into \(plan.tensorCount) tensors")

let findings = try await MergeVerifier(plan, model: Checkpoint(path: paths[2])).run()
print(findings.allSatisfy(\.agrees) ? "the merge is what it should be" : "the merge differs")
