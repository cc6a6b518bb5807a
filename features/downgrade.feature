@former_database
Feature: A downgrade gives the database back to the former release
  An operator who withdraws this release relies on it: the former release finds
  every plan, and can read it.

  Rule: The former release can read every plan

    Scenario: Plans that were created meanwhile
      Given the database was upgraded
      And the stored plan "house" with the child "roof" and the grandchild "tiles"
      When the database is downgraded
      Then the former release reads these plans
        | plan  | parent | root  | profile |
        | house |        |       |         |
        | roof  | house  | house |         |
        | tiles | roof   | house |         |

    Scenario Outline: A profile that a level named
      Given the database was upgraded
      And a stored plan for which the project named the profile "<profile>"
      When the database is downgraded
      Then the former release reads that plan's profile as "<profile> by the project"

      Examples:
        | profile  |
        | trusted  |
        | balanced |

    Scenario: A profile that another program wrote as a bare name
      Given the database was upgraded
      And another program stored a plan under "trusted"
      When the database is downgraded
      Then the former release reads that plan's profile as "trusted"

    Scenario: A plan in the middle of its tree was deleted meanwhile
      Given the database was upgraded
      And the stored plan "house" with the child "roof" and the grandchild "tiles"
      And a client deleted "roof"
      When the database is downgraded
      Then the former release reads these plans
        | plan  | parent | root  | profile |
        | house |        |       |         |
        | tiles |        | house |         |

  Rule: No snapshot is lost

    Scenario: The next upgrade restores it
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was downgraded
      When the database is upgraded
      Then the stored plan has the snapshot of "cautious"

    Scenario: The former release works on the plan meanwhile
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was downgraded
      And the former release begins it
      When the database is upgraded
      Then the stored plan is processing in the action phase
      And the stored plan has the snapshot of "cautious"

    Scenario: The snapshot of a plan that was deleted meanwhile is deleted
      Given the database was upgraded
      And a stored plan that was created under "cautious"
      And the database was downgraded
      And the former release deletes it
      When the database is upgraded
      Then 0 plans are stored
      And there is no archive

  Rule: An upgrade and a downgrade undo each other

    Scenario: Up and down again
      Given the former release left these plans
        | plan  | parent | root  | profile                |
        | house |        |       |                        |
        | roof  | house  | house | trusted by the project |
        | tiles | roof   | house |                        |
      When the database is upgraded and downgraded
      Then nothing has changed

    Scenario: Down and up again
      Given the former release left these plans
        | plan  | parent | profile |
        | house |        |         |
        | roof  | house  | blanks  |
      And the database was upgraded
      And a stored plan that was created under "cautious"
      When the database is downgraded and upgraded
      Then nothing has changed

  Rule: What refers to plans still does

    Scenario: A correction of a plan stays
      Given the database was upgraded
      And the stored plan "house"
      And a correction of "house"
      When the database is downgraded
      Then there is a correction of "house"

    Scenario: A correction goes with its plan
      Given the database was upgraded
      And the stored plan "house"
      And a correction of "house"
      And the database was downgraded
      When the former release deletes it
      Then there is no correction
