Feature: A plan keeps to the automation profile that it was created under
  Years later it must still be known how far a plan was allowed to go without
  a person, on the day on which it was created.

  Rule: The nearest choice decides

    Scenario Outline: A profile is looked up
      Given the <level> names the profile "<profile>"
      And everything names the profile "manual"
      When the profile is looked up
      Then it is "<profile>", chosen by the <level>

      Examples:
        | level   | profile |
        | plan    | ci      |
        | action  | trusted |
        | project | review  |

    Scenario: No level names a profile
      When the profile is looked up
      Then it is "balanced", the default

    Scenario: The default can be chosen as well
      Given the project names the profile "balanced"
      When the profile is looked up
      Then it is "balanced", chosen by the project

    Scenario: An unknown name
      Given the project names the profile "trustd"
      When an unknown profile is looked up
      Then the error says "did you mean 'trusted'?"

  Rule: The snapshot of the profile stays with the plan

    Scenario: A plan is born with its profile
      When a client creates a plan under "cautious"
      Then the plan has the snapshot of "cautious"

    Scenario: The snapshot cannot be changed
      Given a plan that was created under "cautious"
      When a client tries to replace the snapshot
      Then the error says "it says what the profile was when the plan was created"
      And the plan has the snapshot of "cautious"

    Scenario: The snapshot outlives every step
      Given a plan that was created under "cautious"
      When it is worked on until it is applied
      Then the plan has the snapshot of "cautious"

    Scenario: A plan from before snapshots has an empty one
      Given a plan from before snapshots
      Then the plan has an empty snapshot

    Scenario: A child keeps to the profile of its parent
      Given a plan that was created under "cautious"
      When it spawns a child
      Then the child has the snapshot of "cautious"

  Rule: A built-in profile means the same everywhere

    Scenario: A custom profile with a built-in name
      When a client tries to define a custom profile named "trusted"
      Then the error says "'trusted' is a built-in automation profile: give yours another name"

    Scenario Outline: The step that cannot be undone asks a person
      When a client creates a plan under "<profile>"
      Then the plan <asks> a person before it is applied

      Examples:
        | profile   | asks         |
        | manual    | asks         |
        | balanced  | asks         |
        | auto      | asks         |
        | ci        | does not ask |
        | full-auto | does not ask |
