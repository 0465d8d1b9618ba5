import PEFT

let paths = CommandLine.arguments
let config = try PeftConfig.load(directory: paths[2])
let plan = try MergePlan(base: paths[1], adapter: paths[2])
try await Merger(plan).run(to: paths[3])
print("r = \(config.rank), \(plan.mergedCount) modules merged into \(plan.tensorCount) tensors")
