Feature: A plan moves from phase to phase, and only as far as it has come
  A reader of a plan must be able to trust where it stands: that it did
  the work of each phase, and that a final state stays.

  Rule: A plan begins queued in the action phase

    Scenario: A plan is created
      When a client creates the plan "refactor-auth"
      Then it is queued in the action phase
      And it is called "local/refactor-auth"
      And it is the root of its tree

    Scenario: A plan spawns a child for a part of its work
      Given a plan that is processing in the execute phase
      When it spawns a child
      Then the child is queued in the action phase
      And the child belongs to the same tree
      And the child must keep to the same invariants

  Rule: A plan leaves a phase when it is complete in it

    Scenario Outline: A complete plan advances
      Given a plan that is complete in the <phase> phase
      When it advances
      Then it is queued in the <next> phase

      Examples:
        | phase      | next       |
        | action     | strategize |
        | strategize | execute    |
        | execute    | apply      |

    Scenario Outline: A plan that is not complete stays
      Given a plan that is <state> in the strategize phase
      When a client tries to advance it
      Then the error says "a plan that is <state> in the strategize phase cannot advance"
      And it is still <state> in the strategize phase

      Examples:
        | state      |
        | queued     |
        | processing |
        | errored    |
        | cancelled  |

    Scenario: Nothing comes after the apply phase
      Given a plan that is complete in the apply phase
      When a client tries to advance it
      Then the error says "a plan that is complete in the apply phase cannot advance"

  Rule: A plan that failed may be tried again

    Scenario: A plan is tried again
      Given a plan that is errored in the execute phase
      When it is retried
      Then it is queued in the execute phase
      And it is at attempt 2
      And it has no error any more

    Scenario: A plan that did not fail is not tried again
      Given a plan that is processing in the execute phase
      When a client tries to retry it
      Then the error says "a plan that is processing in the execute phase cannot retry"

  Rule: A plan may go back to strategize, three times

    Scenario Outline: A plan goes back
      Given a plan that is processing in the <phase> phase
      When it reverts
      Then it is queued in the strategize phase
      And it went back 1 time

      Examples:
        | phase   |
        | execute |
        | apply   |

    Scenario: A fourth time is one too many
      Given a plan that is processing in the execute phase
      And it went back 3 times before
      When a client tries to revert it
      Then the error says "it went back 3 times already"
      And it is still processing in the execute phase

    Scenario: Before it executes there is nothing to go back from
      Given a plan that is processing in the strategize phase
      When a client tries to revert it
      Then the error says "a plan that is processing in the strategize phase cannot revert"

  Rule: A result counts when the plan is applied

    Scenario: A plan is applied
      Given a plan that is processing in the apply phase
      When it is applied
      Then it is applied in the apply phase
      And its time of completion is known

    Scenario: A constrained plan resumes
      Given a plan that is constrained in the apply phase
      When it resumes
      Then it is queued in the apply phase

    Scenario: A plan is not applied before its time
      Given a plan that is complete in the execute phase
      When a client tries to apply it
      Then the error says "a plan that is complete in the execute phase cannot apply"

  Rule: A final state stays

    Scenario: A plan is cancelled
      Given a plan that is errored in the execute phase
      When it is cancelled
      Then it is cancelled in the execute phase
      And its time of completion is known

    Scenario Outline: A plan in a final state takes no step
      Given a plan that is <state> in the apply phase
      When a client tries to <step> it
      Then the error says "a plan that is <state> in the apply phase cannot <step>"
      And the error says "this state is final"

      Examples:
        | state     | step   |
        | applied   | cancel |
        | applied   | revert |
        | cancelled | begin  |
        | cancelled | spawn  |
