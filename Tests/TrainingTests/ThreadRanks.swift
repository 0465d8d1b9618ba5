import Foundation
import Training

/// Where threads of one process meet: ranks without an engine.
private final class Meeting: @unchecked Sendable {
  // Soundness: all but `count` is touched under the condition's lock.
  private let condition = NSCondition()
  let count: Int
  private var given: [Int: Any] = [:]
  private var result: [Any] = []
  private var round = 0

  init(count: Int) { self.count = count }

  func gather<Value>(_ value: Value, rank: Int) -> [Value] {
    condition.lock()
    defer { condition.unlock() }
    given[rank] = value
    if given.count == count {
      result = (0..<count).compactMap { given[$0] }
      given = [:]
      round += 1
      condition.broadcast()
    } else {
      let now = round
      while round == now { condition.wait() }
    }
    return result.compactMap { $0 as? Value }
  }
}

/// One of several threads that train together.
private struct ThreadRank: Ranks {
  let rank: Int
  let meeting: Meeting

  var count: Int { meeting.count }
  func gather(_ bytes: [UInt8]) -> [[UInt8]] { meeting.gather(bytes, rank: rank) }
  func gather(_ values: [Float]) -> [Float] { meeting.gather(values, rank: rank).flatMap { $0 } }
  func exchange(_ values: [Float]) -> [Float] {
    let part = values.count / count
    return meeting.gather(values, rank: rank).flatMap { $0[rank * part..<(rank + 1) * part] }
  }
  func end() {}
  func endAll(code: Int32) {}
}

private final class Results<Value: Sendable>: @unchecked Sendable {
  private let lock = NSLock()
  private var all: [Int: Result<Value, any Error>] = [:]
  let done = DispatchGroup()

  func set(_ result: Result<Value, any Error>, _ rank: Int) { lock.withLock { all[rank] = result } }

  func values(_ count: Int) -> [Result<Value, any Error>] { lock.withLock { (0..<count).compactMap { all[$0] } } }
}

/// What each of `count` ranks gives, which run at the same time.
func onRanks<Value: Sendable>(
  _ count: Int, _ body: @escaping @Sendable (any Ranks) throws -> Value
) -> [Result<Value, any Error>] {
  let meeting = Meeting(count: count)
  let results = Results<Value>()
  for rank in 0..<count {
    results.done.enter()
    let thread = Thread {
      results.set(Result { try body(ThreadRank(rank: rank, meeting: meeting)) }, rank)
      results.done.leave()
    }
    thread.stackSize = 8 << 20
    thread.start()
  }
  results.done.wait()
  return results.values(count)
}
