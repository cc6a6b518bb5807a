Feature: A plan keeps to the automation profile that it was created under
  Whoever let a plan run must be able to see, years later, how far it was
  allowed to go by itself on that day.

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

    Scenario: Nobody chose
      When the profile is looked up
      Then it is "balanced", chosen by nobody

    Scenario: The default can be chosen as well
      Given the project names the profile "balanced"
      When the profile is looked up
      Then it is "balanced", chosen by the project

    Scenario: A name that nobody knows
      Given the project names the profile "trustd"
      When somebody tries to look the profile up
      Then they are told "did you mean 'trusted'?"

  Rule: What the profile said on the day stays with the plan

    Scenario: A plan is born with its profile
      When somebody creates a plan under "cautious"
      Then the plan has all that "cautious" says on record

    Scenario: Nobody can change what is on record
      Given a plan that was created under "cautious"
      When somebody tries to put another profile on record
      Then they are told "it says what the profile was when the plan was created"
      And the plan has all that "cautious" says on record

    Scenario: The record outlives every step
      Given a plan that was created under "cautious"
      When it is worked on until it is applied
      Then the plan has all that "cautious" says on record

    Scenario: A plan from before profiles were recorded has none
      Given a plan from before profiles were recorded
      Then the plan has no profile on record

    Scenario: A child keeps to the profile of its parent
      Given a plan that was created under "cautious"
      When it spawns a child
      Then the child has all that "cautious" says on record

  Rule: A built-in profile means the same everywhere

    Scenario: A custom profile with a built-in name
      When somebody tries to define a profile of their own named "trusted"
      Then they are told "'trusted' is a built-in automation profile: give yours another name"

    Scenario Outline: The step that cannot be undone asks a person
      When somebody creates a plan under "<profile>"
      Then the plan <asks> a person before it is applied

      Examples:
        | profile   | asks         |
        | manual    | asks         |
        | balanced  | asks         |
        | auto      | asks         |
        | ci        | does not ask |
        | full-auto | does not ask |
