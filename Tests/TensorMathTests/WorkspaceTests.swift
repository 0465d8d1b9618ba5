import Testing

@testable import TensorMath

@Suite struct WorkspaceTests {
  /// Matrices as a pass over a model of ten layers holds them: some kept, some for a while, all given back at the end.
  private func pass(tokens: Int, in workspace: Workspace) {
    var kept: [LentMatrix] = []
    for _ in 0..<10 {
      let wide = workspace.matrix(tokens, 3000)
      kept.append(workspace.matrix(tokens, 1000))
      kept.append(workspace.zeros(tokens, 500))
      wide.clear()
    }
  }

  @Test func passesOfAnyLengthsTakeLittleMoreThanTheLongest() {
    let alone = Workspace()
    pass(tokens: 900, in: alone)
    let workspace = Workspace()
    for tokens in [100, 130, 170, 220, 290, 900, 380, 640, 90, 810, 530, 900, 70, 760] {
      pass(tokens: tokens, in: workspace)
    }
    #expect(workspace.byteCount <= alone.byteCount + alone.byteCount / 8 + 1 << 16)
  }

  @Test func passesOfOneLengthTakeWhatTheFirstTook() {
    let workspace = Workspace()
    pass(tokens: 300, in: workspace)
    let first = workspace.byteCount
    for _ in 0..<5 { pass(tokens: 300, in: workspace) }
    #expect(workspace.byteCount == first)
  }
}
