import PEFT
import TensorFiles
import TestSupport

/// The merge of a fixture, and that of the same base in double precision, which takes the exact path and rounds nowhere.
func mergedAndExact(_ root: String, in scratch: ScratchDirectory) async throws -> (
  merged: Checkpoint, exact: Checkpoint
) {
  try widen("\(root)/base", to: scratch("wide"))
  try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
  try await Merger(MergePlan(base: scratch("wide"), adapter: "\(root)/adapter")).run(to: scratch("exact"))
  return (try Checkpoint(path: scratch("out")), try Checkpoint(path: scratch("exact")))
}
