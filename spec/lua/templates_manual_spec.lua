-- templates/README.md is what the code says: make templates-manual writes it.
describe("templates/README.md", function()
  it("is made from the code", function()
    local file <close> = assert(io.open "templates/README.md")
    assert.equal(require "spec.support.templates_manual".text(), file:read "a")
  end)
end)
